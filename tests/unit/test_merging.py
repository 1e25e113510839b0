"""Which spans are merged."""

from __future__ import annotations

from dataclasses import replace

import pytest

from policies.errors import ForkError, MissingPointError
from policies.merging import plan_merge, point_numbered
from policies.points import Span
from tests.notation import chain, word_name


@pytest.mark.parametrize(
    ("text", "after", "upto", "sources", "covers"),
    [
        ("b i1 i2 i3 i4 i5", "0", "5", "i1 i2 i3 i4 i5", "1 2 3 4 5"),
        ("b i1 i2 i3 i4 i5", "2", "4", "i3 i4", "3 4"),
        ("b i1", "0", "1", "i1", "1"),
        ("b i1 i2", None, "2", "b i1 i2", "0 1 2"),
        ("b", None, "0", "b", "0"),
        ("full(0-2) i3", None, "3", "full(0-2) i3", "0 1 2 3"),
        ("b i1 i2 full(0-2) i3", None, "3", "full(0-2) i3", "0 1 2 3"),
        # as many points as possible, then as few files
        ("b i1 i2 i3 cd(1-3) cd(4-6) i4 i5 i6", "0", "6", "cd(1-3) cd(4-6)", "1 2 3 4 5 6"),
        ("b i1 i2 i3 i4 cd(1-3)", "0", "4", "cd(1-3) i4", "1 2 3 4"),
        ("b i1 i2 diff(0>2)", "0", "2", "i1 i2", "1 2"),
        ("b diff(0>2) i3", "0", "3", "diff(0>2) i3", "2 3"),
        ("b cd(1-3) diff(0>5) i4 i5 i6", "0", "6", "cd(1-3) i4 i5 i6", "1 2 3 4 5 6"),
        ("b i1:9 cd(1-1):8", "0", "1", "cd(1-1)", "1"),
        # forks
        ("b i1 i2 i3 i2' i3'", "0", "3'", "i1 i2' i3'", "1 2' 3'"),
        ("b i1 i2 i3 i2' i3'", "1", "3", "i2 i3", "2 3"),
        # a gap elsewhere is no matter
        ("i3 i4 i6", "2", "4", "i3 i4", "3 4"),
    ],
)
def test_spans_end_to_start(text, after, upto, sources, covers):
    made = chain(text)
    plan = plan_merge(made.spans, None if after is None else made[after], made[upto])
    assert [span.name for span in plan.sources] == [word_name(word) for word in sources.split()]
    assert made.words(plan.covers) == covers
    assert plan.start == (None if after is None else made[after])


@pytest.mark.parametrize(
    ("text", "after", "upto", "error", "says"),
    [
        ("b i1 i3 i4", "0", "4", MissingPointError, "between point 1 and point 3? there is a gap|point 2"),
        ("b i1 i2 i4 i5 cw(1-5)", "1", "5", MissingPointError, "between point 2 and point 3"),
        ("b cd(1-5)", "2", "5", MissingPointError, "between point 2 and point 3"),
        ("b cd(1-5)", "0", "3", MissingPointError, "between point 0 and point 1"),
        ("b i1 i2? i3", "1", "3", MissingPointError, "nothing leads to point 2"),
        ("i1 i2", None, "2", MissingPointError, "no base image"),
        ("i2 i3 i8", "1", "8", MissingPointError, "nothing leads to point 7"),
        ("b i1 i2", "2", "1", MissingPointError, "point 2 does not come before point 1"),
        ("b i1 i2", "1", "1", MissingPointError, "point 1 does not come before point 1"),
        ("b i1 i9? i8?", "1", "9", MissingPointError, "no image of the chain names point 9"),
        ("b i1 i9? i8?", "7", "9", MissingPointError, "no image of the chain names point 7"),
        ("b i1 diff(0>3)", "1", "3", MissingPointError, "between point 0 and point 3"),  # a fork, or a gap
        ("b i1 i2 i3 i2' i3'", "2", "3'", ForkError, "different lines"),
        ("b i1 i2 i3 i3' i2' i4'", "2'", "3", ForkError, "different lines"),
        ("b i1 i2 i3 i2' i3' i4'", "3", "4'", ForkError, "different lines"),
    ],
)
def test_gaps_and_forks_are_refused(text, after, upto, error, says):
    made = chain(text)
    with pytest.raises(error, match=says):
        plan_merge(made.spans, None if after is None else made[after], made[upto])


def test_a_gap_error_says_what_to_bring_back():
    made = chain("b i1 i3 cw(1-3)")
    with pytest.raises(MissingPointError) as caught:
        plan_merge(made.spans, made[1], made[3])
    assert caught.value.hint == "Bring back the image that leads from point 1 to point 2."


def test_points_by_number():
    made = chain("b i1 i2 i3 i2' i3' cd(4-6) i9?")
    assert point_numbered(made.spans, 0) == made[0]
    assert point_numbered(made.spans, 1) == made[1]
    assert point_numbered(made.spans, 5) == made[5]
    with pytest.raises(MissingPointError, match="point 9"):
        point_numbered(made.spans, 9)
    with pytest.raises(ForkError, match="point 2 lies on 2 lines"):
        point_numbered(made.spans, 2)


def test_cycles_and_contradictions_are_left_out():
    made = chain("b i1 i2 i3")
    good = plan_merge(made.spans, made[0], made[3])
    hostile = [
        *made.spans,
        Span("back.spi", made[3], (made[1],)),
        Span("turn.spi", made[2], (made[1], replace(made[3], number=4))),
        Span("up.spi", replace(made[2], number=0), (replace(made[1], number=3),)),
    ]
    assert plan_merge(hostile, made[0], made[3]) == good
    with pytest.raises(MissingPointError):
        plan_merge(hostile[4:], made[0], made[3])


def test_a_long_chain_is_quick():
    made = chain("b " + " ".join(f"i{number}" for number in range(1, 35_001)))
    assert len(plan_merge(made.spans, made[0], made[35_000]).sources) == 35_000
