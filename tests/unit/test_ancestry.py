"""Who descends from whom."""

from __future__ import annotations

from dataclasses import replace

import pytest

from policies.ancestry import trace_ancestry
from policies.points import Span
from tests.notation import chain


@pytest.mark.parametrize(
    ("text", "end", "line"),
    [
        ("b i1 i2 i3", "3", "0 1 2 3"),
        ("b cd(1-3) i4", "4", "0 1 2 3 4"),
        ("b diff(0>3)", "3", "0 3"),
        ("b diff(0>3) i1 i2 i3", "3", "0 1 2 3"),
        ("b diff(0>3) i3", "3", "2 3"),
        ("b i1 i2 i3 i3' i4'", "4'", "0 1 2 3' 4'"),
        ("full(0-2) i3", "3", "0 1 2 3"),
        ("b? i1? i2", "2", "1 2"),
    ],
)
def test_a_line_goes_back_as_far_as_headers_tell(text, end, line):
    made = chain(text)
    tree = trace_ancestry(made.spans)
    assert made.words(tree.line_to(made[end])) == line


def test_the_order_of_spans_does_not_matter():
    spans = chain("b i1 i2 i2' cd(1-3) diff(0>4) full(0-3)").spans
    assert trace_ancestry(spans) == trace_ancestry(reversed(spans))


def test_spans_that_contradict_are_left_out():
    made = chain("b i1 i2 i3")
    backwards = Span("loop.spi", made[3], (made[1],))
    renumbered = Span("z.spi", made[1], (replace(made[2], number=7),))
    tree = trace_ancestry([*made.spans, backwards, renumbered])
    assert tree == trace_ancestry(made.spans)
