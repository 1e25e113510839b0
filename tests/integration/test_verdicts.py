"""What a file held before says nothing of what it holds now, whoever read it, and however late that is recorded."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from actors import verify
from storage.catalog import EventKind, Image, ImageState
from tests.bed import quick_folder
from tests.checks.fortnight import FIRST
from tests.household import Household, Source

CHANGED = "V-b001-i001.spi"


@pytest.mark.parametrize("is_seen_by_another", [True, False])
def test_a_verdict_on_what_was_replaced_meanwhile_counts_for_nothing(is_seen_by_another: bool):
    """A worker has read an image, and goes on with others of its batch; another worker meets what has its place now."""
    with quick_folder() as place:
        house, source = Household(place, FIRST), Source(place / "volume.raw", 1 << 19)
        for hours in (0, 1, 2):
            source.capture_into(house.folder, FIRST + timedelta(hours=hours))
        house.now = FIRST + timedelta(hours=3)
        house.scan()
        house.inbox.waiting.clear()
        one = house.context
        other = replace(one, holder=replace(one.holder, host="another"))
        readings = _read(one, house.images()[CHANGED])
        assert len(readings) == 3
        (house.folder / CHANGED).write_bytes(b"rubbish" * 10_000)
        for _ in range(2):
            house.scan()  # it stands still by then
        later = _read(other, house.images()[CHANGED]) if is_seen_by_another else []
        verify._finish(one, readings, [])
        assert house.states()[CHANGED] is not ImageState.GOOD
        verify._finish(other, later, [])
        house.inbox.waiting.clear()
        for _ in range(3):
            house.scan()
            house.drain()
        assert house.states()[CHANGED] is ImageState.BAD
        assert CHANGED not in [event.subject for event in house.events(EventKind.VERIFIED)]
        house.catalog.close()


def _read(context: verify.AgentContext, image: Image) -> list[verify._Reading]:
    with context.catalog.write() as session:
        tasks = verify._begin(context, session, image.id)
    return [reading for task in tasks if (reading := verify._read_back(context, task)) is not None]
