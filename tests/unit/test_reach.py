"""Which points can be restored, by which files, and what stands in the way."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from policies.points import Span
from policies.reach import (
    forks,
    gaps,
    path_beginning_with,
    reachable,
    shortest_path,
    tip,
    tips,
    ways_from_nothing,
)
from tests.notation import Chain, chain, word_name


def names(*words: str) -> list[str]:
    return [word_name(word) for word in words]


def path(made: Chain, target: str, standing: str | None = None) -> list[str] | None:
    found = shortest_path(made.spans, made[target].id, None if standing is None else made[standing].id)
    return None if found is None else [span.name for span in found]


PATHS = [
    # chain, target, the way from nothing
    ("b", "0", "b"),
    ("b i1 i2 i3", "3", "b i1 i2 i3"),
    ("b i1 i2 i3", "1", "b i1"),
    ("b i1 i2 i3 cd(1-3)", "3", "b cd(1-3)"),
    ("b i1 i2 i3 cd(1-3)", "2", "b i1 i2"),
    ("b cd(1-3) i4 i5", "5", "b cd(1-3) i4 i5"),
    ("b cd(1-3) cd(4-6) cw(1-6) i7", "7", "b cw(1-6) i7"),
    ("b i1 i2 i3 i4 cd(2-4)", "4", "b i1 cd(2-4)"),
    ("b i1 i2 i3 i4 cd(1-3) cd(2-4)", "4", "b i1 cd(2-4)"),  # cd(1-3) i4 is as long; its files are larger
    ("b i1 cd(1-2) cd(2-3)", "3", "b i1 cd(2-3)"),
    ("b cd(1-2) cw(2-5)", "5", "b cd(1-2) cw(2-5)"),  # applied at point 2, which it covers
    ("b cd(1-2) cw(2-5) cm(4-9)", "9", "b cd(1-2) cw(2-5) cm(4-9)"),
    ("b diff(0>5) i6", "6", "b diff(0>5) i6"),
    ("full(0-4) b i1", "1", "b i1"),
    ("full(0-4) i5", "5", "full(0-4) i5"),
    ("b i1 i2 i3 full(0-2)", "3", "full(0-2) i3"),
    ("b i1 i2 i3 i3' i4' cd(1-3)", "4'", "b i1 i2 i3' i4'"),
    ("b i1 i2 i3 i3' i4' cd(1-4')", "4'", "b cd(1-4')"),
    # no way
    ("i1 i2", "2", None),
    ("b i1 i3", "3", None),
    ("b cd(1-3)", "2", None),
    ("full(0-4)", "2", None),
    ("b i1? i2", "2", None),
    ("b? i1", "1", None),
    ("b diff(0>5) i4", "4", None),
]


@pytest.mark.parametrize(("text", "target", "expected"), PATHS)
def test_fewest_files_from_nothing(text, target, expected):
    text = text.replace("cd(1-3) cd(2-4)", "cd(1-3):30 cd(2-4)")
    assert path(chain(text), target) == (None if expected is None else names(*expected.split()))


@pytest.mark.parametrize(
    ("text", "standing", "target", "expected"),
    [
        ("b i1 i2 i3", "1", "3", "i2 i3"),
        ("b i1 i2 i3", "3", "3", ""),
        ("cd(1-5)", "3", "5", "cd(1-5)"),  # i004 and i005 are gone, the disk at 3 rolls on
        ("cd(1-5)", "0", "5", "cd(1-5)"),
        ("diff(0>5)", "0", "5", "diff(0>5)"),
        ("full(0-5)", "3", "5", "full(0-5)"),
        ("cd(1-5) i4 i5 i6", "3", "6", "cd(1-5) i6"),
        ("diff(0>5)", "3", "5", None),
        ("b i1 i2", "2", "1", None),
        ("b i1 i2 i3", "9", "3", None),
        ("cd(1-5)?", "3", "5", None),
    ],
)
def test_fewest_files_from_where_a_disk_stands(text, standing, target, expected):
    made = chain(f"{text} i9 i3?")
    assert path(made, target, standing) == (None if expected is None else names(*expected.split()))


def test_equally_long_ways_are_told_apart_by_bytes_and_then_by_name():
    assert path(chain("b i1:50 cd(1-1):40 i2"), "2") == names("b", "cd(1-1)", "i2")
    assert path(chain("b i1:40 cd(1-1):40 i2"), "2") == names("b", "cd(1-1)", "i2")
    assert path(chain("b i1:39 cd(1-1):40 i2"), "2") == names("b", "i1", "i2")
    assert path(chain("b:10 i1:5 full(0-2):12 cw(1-4):9"), "4") == names("b", "cw(1-4)")
    assert path(chain("b cd(1-1):9 i2:2 cd(1-2):10 i1:7 cw(2-5)"), "5") == names("b", "i1", "cw(2-5)")


def test_the_order_of_spans_does_not_matter():
    made = chain("b i1 i2 i3 i4 i5 cd(1-2) cd(2-3) cd(3-4) cw(2-4) cw(1-3) full(0-1) diff(1>4)")
    expected = path(made, "5")
    for seed in range(30):
        random.Random(seed).shuffle(made.spans)
        assert path(made, "5") == expected


def test_a_way_may_have_to_begin_with_certain_spans():
    made = chain("b i1 i2 i3 cd(1-2) cw(1-3):20")
    found = path_beginning_with(made.named("cd(1-2)"), made.spans, made[3].id)
    assert found == tuple(made.named("cd(1-2)", "i3"))
    assert path_beginning_with((), made.spans, made[3].id) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("b i1 i2", "0 1 2"),
        ("b cd(1-3) i2 i3 i4", "0 3 4"),
        ("b i1 i3 i4", "0 1"),
        ("i1 i2", ""),
        ("b i1? i2", "0"),
        ("full(0-3) i2", "3"),
    ],
)
def test_what_is_reachable(text, expected):
    made = chain(text)
    assert reachable(made.spans) == made.ids(*expected.split())
    assert set(ways_from_nothing(made.spans)) == made.ids(*expected.split())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # each gap: the missing point, who waits, the last point before, whether it is bridged
        ("b i1 i2", []),
        ("b i1 i3 i4", [("2", "i3", "1", False)]),
        ("b i1 i3 i4 i6", [("2", "i3", "1", False), ("5", "i6", "1", False)]),
        ("i1 i2", [("0", "i1", None, False)]),
        ("b i2 cd(2-4)", [("1", "i2 cd(2-4)", "0", False)]),
        ("b i1 i3 cd(1-3) i4", [("2", "i3", "1", True)]),
        ("b i1 i2? i3", [("2", "i3", "1", False)]),
        ("b i1 i2 i3 i3' i5'", [("4", "i5'", "3", False)]),
        ("full(0-3) i2", [("1", "i2", None, True)]),
    ],
)
def test_gaps(text, expected):
    made = chain(text)
    found = [
        (made.words([gap.missing]), gap.waiting, gap.after and made.words([gap.after]), gap.bridged)
        for gap in gaps(made.spans)
    ]
    assert found == [(missing, tuple(names(*w.split())), after, by) for missing, w, after, by in expected]


def test_the_last_point_before_a_gap_is_sought_on_its_own_line():
    made = chain("b i1 i2 i3 i4 i5 i2' i3' i4' i5'")
    kept = [span for span in made.spans if span.name not in names("i3'", "i4'")]
    assert [(gap.missing, gap.after) for gap in gaps(kept)] == [(made["4'"], made[3])]  # lines not told apart
    wide = Span("wide.spi", made["2'"], (made["3'"], made["4'"], made["5'"]))
    assert [(gap.missing, gap.after) for gap in gaps([*kept, wide])] == [(made["4'"], made["2'"])]


@pytest.mark.parametrize(
    ("text", "expected_forks", "expected_tips", "expected_tip"),
    [
        ("b i1 i2", {}, "2", "2"),
        ("b i1 i2 i2' i3'", {"1": "2 2'"}, "2 3'", "3'"),
        ("b i1 i2 i3 i2' i2''", {"1": "2 2' 2''"}, "2' 2'' 3", "3"),
        ("b i1 i2 i3 i2' i3''", {"1": "2 2'", "2": "3 3''"}, "2' 3 3''", None),
        ("b i1 i2 i3 diff(0>3)", {}, "3", "3"),
        ("b i1 diff(0>3)", {"0": "1 3"}, "1 3", "3"),
        ("b i1 cd(1-4)", {}, "4", "4"),
        ("b i1 i2 i4", {}, "2 4", "2"),
        ("i1 i2", {}, "2", None),
        ("b i1? i1'", {}, "1'", "1'"),
    ],
)
def test_forks_and_tips(text, expected_forks, expected_tips, expected_tip):
    made = chain(text)
    found = {made.words([fork.point]): set(made.words(fork.children).split()) for fork in forks(made.spans)}
    assert found == {point: set(children.split()) for point, children in expected_forks.items()}
    assert set(made.words(tips(made.spans)).split()) == set(expected_tips.split())
    last = tip(made.spans)
    if expected_tip is not None:
        assert last == made[expected_tip]
    else:
        assert last is None or last in (made[3], made["3''"])


def test_of_several_lines_the_latest_tip_counts():
    made = chain("b i1 i2 i3 i2'", times={"2'": chain("b i9")["9"].time})
    assert tip(made.spans) == made["2'"]


def test_no_spans_no_answers():
    made = chain("b")
    assert shortest_path([], made[0].id) is None
    assert reachable([]) == frozenset()
    assert gaps([]) == forks([]) == tips([]) == ()
    assert tip([]) is None


def test_cycles_and_contradictions_end():
    made = chain("b i1 i2 i3 i4")
    hostile = [
        *made.spans,
        Span("back.spi", made[4], (made[1],)),
        Span("swap.spi", made[3], (made[2],)),
        Span("late.spi", replace(made[2], number=90), (replace(made[1], number=91),)),
        Span("lost-1.spi", chain("i8")["8"], (chain("i9")["9"],)),
        Span("lost-2.spi", chain("i9")["9"], (chain("i8")["8"],)),
    ]
    assert [span.name for span in shortest_path(hostile, made[4].id) or ()] == names(
        "b", "i1", "i2", "i3", "i4"
    )
    assert [gap.missing.number for gap in gaps(hostile)] == [8]
    assert forks(hostile) == ()
    assert tip(hostile) == made[4]


def test_a_long_chain_with_every_tier_is_quick():
    count = 35_000
    points = chain("b " + " ".join(f"i{number}" for number in range(1, count + 1)))
    wide = [
        Span(
            f"wide-{first}-{size}",
            points[first],
            tuple(points[n] for n in range(first + 1, first + size + 1)),
        )
        for size in (96, 672, 2880)
        for first in range(0, count - size, size)
    ]
    found = shortest_path([*points.spans, *wide], points[count].id)
    assert found is not None
    assert len(found) < 80
    assert gaps([*points.spans[1:], *wide])[0].missing == points[0]
