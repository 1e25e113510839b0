"""Chains written in a line, for tests that read like tables.

    b           the base: leads from nothing to point 0
    i5          an incremental, from point 4 to point 5
    cd(1-5)     a daily that covers points 1 to 5 and so leads from point 0 (cw, cm, cr likewise)
    diff(0>5)   a differential: from point 0 to point 5, naming none between
    full(0-5)   a synthetic full that covers points 0 to 5
    i5'         point 5' on a second line; its predecessor is 4' where the line has one, else 4
    i5~ i5?     not verified; assumed (known by name only)
    i5:70       70 stored bytes instead of 10

Points are called by the same words: "5", "5'". Point N is taken N hours after the first.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from policies.points import Point, PointId, Span

START = datetime(2026, 3, 2, 0, 30, tzinfo=UTC)
"""When point 0 is taken unless a test says otherwise: a Monday."""

_TOKEN = re.compile(
    r"(?P<kind>b|i|cd|cw|cm|cr|diff|full)"
    r"(?:\(?(?P<first>\d+)?(?:(?<=\d)(?P<between>[->])(?P<last>\d+))?(?P<line>'*)\)?)?"
    r"(?P<state>[~?]?)(?::(?P<size>\d+))?"
)


@dataclass
class Chain:
    """What a notation says: spans, and points by their words."""

    spans: list[Span] = field(default_factory=list)
    points: dict[str, Point] = field(default_factory=dict)

    def __getitem__(self, word: str | int) -> Point:
        return self.points[str(word)]

    def ids(self, *words: str | int) -> set[PointId]:
        return {self[word].id for word in words}

    def named(self, *words: str) -> list[Span]:
        """Give the spans that were written as these words."""
        return [span for word in words for span in self.spans if span.name == word_name(word)]

    def words(self, points: object) -> str:
        """Say points by their words."""
        by_id = {point.id: word for word, point in self.points.items()}
        assert isinstance(points, (tuple, list, set, frozenset))
        return " ".join(by_id[point.id if isinstance(point, Point) else point] for point in points)


def word_name(word: str) -> str:
    """Give the file name that a word of the notation stands for."""
    token = _TOKEN.fullmatch(word)
    assert token is not None, f"not a word of the notation: {word!r}"
    kind, number = token["kind"], int(token["last"] or token["first"] or 0)
    line = "_" * len(token["line"])
    if kind == "b":
        return "D_VOL-b001.spf"
    if kind == "full":
        return f"D_VOL{line}-b001-i{number:03d}.spf"
    if kind == "diff":
        return f"D_VOL{line}-b001-d{number:03d}.spi"
    tier = f"-{kind}" if kind != "i" else ""
    return f"D_VOL{line}-b001-i{number:03d}{tier}.spi"


def chain(
    text: str, *, times: Mapping[str, datetime] | None = None, sizes: Mapping[str, int] | None = None
) -> Chain:
    """Read a chain.

    Args:
        text: words of the notation.
        times: when points are taken, by word, where it is not their number of hours after the first.
        sizes: volume sizes in bytes, by word, where they are not 1,000.
    """
    made = Chain()
    second_line = set(re.findall(r"i(\d+'+)", text))

    def point(number: int, line: str) -> Point:
        word = f"{number}{line}" if f"{number}{line}" in second_line else f"{number}"
        if word not in made.points:
            made.points[word] = Point(
                id=PointId(hashlib.md5(word.encode()).digest()),
                number=number,
                time=(times or {}).get(word, START + timedelta(hours=number)),
                volume_bytes=(sizes or {}).get(word, 1000),
            )
        return made.points[word]

    for word in text.split():
        token = _TOKEN.fullmatch(word)
        assert token is not None, f"not a word of the notation: {word!r}"
        kind, line = token["kind"], token["line"]
        first = int(token["first"] or 0)
        last = int(token["last"] or first)
        covered = [last] if token["between"] == ">" else range(first, last + 1)
        came_from = first if token["between"] == ">" else first - 1
        made.spans.append(
            Span(
                name=word_name(word),
                start=None if kind in ("b", "full") else point(came_from, line),
                covers=tuple(point(number, line) for number in covered),
                stored_bytes=int(token["size"] or 10),
                verified=token["state"] != "~",
                assumed=token["state"] == "?",
            )
        )
    return made
