"""Which sets of images may be removed."""

from __future__ import annotations

import pytest

from policies.cursor import Cursor
from policies.retiring import Promise, judge_retirement
from tests.notation import Chain, chain, word_name


def promises(made: Chain, text: str) -> list[Promise]:
    """Read promises: "5" from nothing; "2,3>5" for a disk torn between 2 and 3; ">5" for a blank one."""
    made_promises = []
    for word in text.split():
        standing, arrow, target = word.rpartition(">")
        points = tuple(made[point] for point in standing.split(",") if point)
        made_promises.append(Promise(made[target], "the policy", Cursor(points) if arrow else None))
    return made_promises


@pytest.mark.parametrize(
    ("text", "removed", "promised", "broken"),
    [
        # chain, files to remove, promises, those that would break
        ("b i1 i2 i3 cd(1-3)", "i1 i2 i3", "0 3", ""),
        ("b i1 i2 i3 cd(1-3)", "i1 i2 i3", "0 2 3", "2"),
        ("b i1 i2 i3 cd(1-3)", "i1", "3", ""),
        ("b i1 i2 i3 cd(1-3)", "cd(1-3)", "3", ""),
        ("b i1 i2 i3 cd(1-3)", "i2 cd(1-3)", "3", "3"),  # each alone could go
        ("b i1", "b", "1", "1"),
        ("b i1 full(0-1)", "b i1", "1", ""),
        ("b i1 full(0-1)", "b i1", "0 1", "0"),
        ("b i1", "", "0 1", ""),
        ("b i1", "i1 nothing-of-the-kind", "0", ""),
        # what is not proven does not count
        ("b i1 i2 i3 cd(1-3)~", "i1 i2 i3", "3", "3"),
        ("b i1 i2 i3 cd(1-3)?", "i1 i2 i3", "3", "3"),
        ("b i1~", "", "1", "1"),
        # disks that are being rolled forward
        ("b i1 i2 i3 cd(1-3)", "i1 i2 i3", "2>3", ""),
        ("b i1 i2 i3 cd(1-3) cd(4-6) cw(1-6)", "b i1 i2 i3 cd(1-3) cd(4-6)", "2>6", ""),
        ("b i1 i2 i3 cd(1-3)", "i3 cd(1-3)", "2>3", "2>3"),
        ("b i1 i2 i3 i4 cd(1-2)", "i2", "1,2>4", ""),
        ("b i1 i2 i3 i4 cd(1-2)", "i2 cd(1-2)", "1,2>4 4", "1,2>4 4"),
        ("b i1 i2 i3 diff(0>2)", "i1 i2", "0,2>3", ""),
        ("b i1 i2 i3 diff(0>2)", "i1 i2", "1,2>3", "1,2>3"),
        ("b i1 i2", "i2", "1>1", ""),
        ("b i1 i2", "b", ">0 >1", ">0 >1"),
    ],
)
def test_the_whole_set_is_judged(text, removed, promised, broken):
    made = chain(text)
    names = {word_name(word) if "nothing" not in word else word for word in removed.split()}
    asked = promises(made, promised)
    verdict = judge_retirement(made.spans, names, asked)
    said = [
        word for word, promise in zip(promised.split(), asked, strict=True) if promise in refused(verdict)
    ]
    assert said == broken.split()
    assert verdict.allowed is (not broken)


def refused(verdict):
    return [broken.promise for broken in verdict.broken]


def test_who_needs_it_and_why():
    made = chain("b i1 i2 i3 i4")
    asked = [
        Promise(made[3], "the hold 'audit'"),
        Promise(made[4], "the job 'stand-by'", Cursor.closed(made[1])),
    ]
    verdict = judge_retirement(made.spans, {word_name("i2"), word_name("i3")}, asked)
    assert [broken.lost for broken in verdict.broken] == [word_name("i3"), word_name("i3")]
    assert verdict.broken[0].reason == (
        "the hold 'audit' needs point 3 restored, and no verified images would lead there "
        "without D_VOL-b001-i003.spi"
    )
    assert "a disk that stands at 1 rolled on to point 4" in verdict.broken[1].reason


def test_a_promise_that_is_broken_already_says_so():
    made = chain("b i2 i3")
    verdict = judge_retirement(made.spans, {word_name("i3")}, [Promise(made[2], "the policy")])
    assert not verdict.allowed
    assert verdict.broken[0].lost is None
    assert verdict.broken[0].reason.endswith("lead there even now")


@pytest.mark.parametrize(
    ("text", "removed", "promised", "spare"),
    [
        ("b i1 i2 i3 i4 cd(1-3)", "i1 i2 i3 i4", "0 3", ""),
        ("b i1 i2 i3 i4 cd(1-3)", "i1 i2 i3 i4", "2 3", "i1 i2"),
        ("b i1 i2 i3 i4 cd(1-3)", "i1 i2 i3 i4 cd(1-3)", "3", "cd(1-3)"),
        ("b i1 i2 i3 i4", "i1 i2 i3 i4", "2>4 1", "i1 i3 i4"),
        ("b i1 i3", "b i1 i3", "3", ""),
    ],
)
def test_sparing_some_files_keeps_every_promise_that_can_be_kept(text, removed, promised, spare):
    made = chain(text)
    names = {word_name(word) for word in removed.split()}
    asked = promises(made, promised)
    verdict = judge_retirement(made.spans, names, asked)
    assert verdict.spare == {word_name(word) for word in spare.split()}
    again = judge_retirement(made.spans, names - verdict.spare, asked)
    assert all(broken.lost is None for broken in again.broken)


def test_a_long_chain_with_every_point_promised_is_quick():
    made = chain("b " + " ".join(f"i{number}" for number in range(1, 35_001)))
    asked = [Promise(point, "the policy") for point in made.points.values()]
    verdict = judge_retirement(made.spans, [span.name for span in made.spans[1:]], asked)
    assert len(verdict.broken) == len(verdict.spare) == 35_000
