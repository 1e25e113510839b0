"""Where a disk that is rolled forward stands, and what may be applied to it."""

from __future__ import annotations

import pytest

from policies.cursor import Cursor, next_span, roll_on_path, usable
from policies.errors import MissingPointError
from tests.notation import Chain, chain, word_name


def cursor(made: Chain, words: str) -> Cursor:
    return Cursor(tuple(made[word] for word in words.split()))


def test_blank_closed_and_torn():
    made = chain("b i1 i2")
    blank, closed, torn = Cursor.blank(), Cursor.closed(made[1]), cursor(made, "1 2")
    assert (blank.is_blank, closed.is_blank, torn.is_blank) == (True, False, False)
    assert (blank.is_closed, closed.is_closed, torn.is_closed) == (False, True, False)
    assert (blank.lo, blank.hi) == (None, None)
    assert (closed.lo, closed.hi) == (made[1], made[1])
    assert (torn.lo, torn.hi) == (made[1], made[2])


@pytest.mark.parametrize(
    ("standing", "word", "sizes", "widened"),
    [
        ("0", "i1", {}, "0 1"),
        ("0", "cd(1-5)", {}, "0 5"),
        ("3", "cd(1-5)", {}, "3 5"),
        ("5", "cd(1-5)", {}, "5"),
        ("3 4", "cd(1-5)", {}, "3 4 5"),
        ("0", "diff(0>5)", {}, "0 5"),
        # the volume was smaller for a while: what is zeroed first has the value that it had then
        ("0", "cd(1-5)", {"2": 500}, "0 2 5"),
        ("4", "cd(1-5)", {"2": 500}, "2 4 5"),
        ("2", "cd(1-5)", {"2": 500}, "2 5"),
        ("5", "cd(1-5)", {"2": 500}, "2 5"),
        ("4", "cd(1-5)", {"2": 500, "3": 500}, "2 4 5"),
        ("0", "cd(1-5)", {"5": 500}, "0 5"),
        ("0", "cd(1-5)", {"0": 500}, "0 5"),
        ("3", "cd(1-5)", {"0": 500}, "0 3 5"),
        # a base clears everything, which no point's value need be
        ("", "full(0-5)", {}, ""),
        ("3", "full(0-5)", {}, ""),
        ("2 4", "full(0-5)", {}, ""),
    ],
)
def test_widening_before_the_first_write(standing, word, sizes, widened):
    made = chain(f"{word} i1 i2 i3 i4 i5", sizes=sizes)
    span = made.spans[0]
    wide = cursor(made, standing).widened(span)
    assert made.words(wide.points) == widened
    assert usable(wide, span), "what was torn must be repaired by doing it again"
    assert wide.widened(span) == wide
    assert wide.after(span) == Cursor.closed(span.end)


@pytest.mark.parametrize(
    ("standing", "word", "expected"),
    [
        ("2", "i3", True),
        ("2", "i2", True),
        ("2", "i4", False),
        ("3", "cd(1-5)", True),
        ("3", "diff(0>5)", False),
        ("0", "diff(0>5)", True),
        ("0 5", "diff(0>5)", True),
        ("0 2 5", "diff(0>5)", False),
        ("2 4", "cd(1-5)", True),
        ("2 6", "cd(1-5)", False),
        ("", "i1", False),
        ("", "full(0-5)", True),
        ("", "full(0-5)?", False),
        ("2", "full(0-5)", True),
        ("6", "full(0-5)", False),
        ("3", "cd(1-5)?", False),
    ],
)
def test_what_may_be_applied(standing, word, expected):
    made = chain(f"{word} i1 i2 i3 i4 i5 i6")
    where, span = cursor(made, standing), made.spans[0]
    assert usable(where, span) is expected
    if not expected:
        with pytest.raises(MissingPointError, match="cannot be applied"):
            where.widened(span)
        with pytest.raises(MissingPointError, match="cannot be applied"):
            where.after(span)


@pytest.mark.parametrize(
    ("text", "standing", "target", "path"),
    [
        ("b i1 i2 i3", "1", "3", "i2 i3"),
        ("b i1 i2 i3", "3", "3", ""),
        ("b i1 i2 i3", "", "2", "b i1 i2"),
        ("b cd(1-5)", "3", "5", "cd(1-5)"),
        ("b i1 i2 i3 cd(1-3):20 i4", "2 3", "4", "i3 i4"),
        ("b i1 i2 cd(1-3) i4", "2 3", "4", "cd(1-3) i4"),
        ("b i1 i2 cd(1-3) i4", "2 3", "3", "cd(1-3)"),
        ("b i1 i2 i3 i4", "2 4", "4", None),  # nothing holds both ends of the torn stretch
        ("b diff(0>4) i4 i2", "0 2 4", "4", None),
        # a synthetic full would overwrite the whole disk: only where nothing else leads on
        ("b i1 i2 i3 full(0-3)", "1", "3", "i2 i3"),
        ("b i1 i3 full(0-3)", "1", "3", "full(0-3)"),
        ("b i1 i3 full(0-3)", "1 2", "3", "full(0-3)"),
        ("b i1 i2 i3 i4 full(0-2)", "2 3", "4", "i3 i4"),
        # a base that does not hold the disk's point is a new beginning, not a way on
        ("b i1 i2 i2' i3'", "2'", "2", None),
    ],
)
def test_rolling_on(text, standing, target, path):
    made = chain(f"{text} i2? i3? i1?")
    where = cursor(made, standing)
    found = roll_on_path(where, made.spans, made[target].id)
    expected = None if path is None else [word_name(word) for word in path.split()]
    assert (None if found is None else [span.name for span in found]) == expected
    first = next_span(where, made.spans, made[target].id)
    assert (None if first is None else first.name) == (expected[0] if expected else None)
