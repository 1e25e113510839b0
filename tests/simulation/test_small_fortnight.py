"""Two simulated weeks on a small volume, without processes of their own."""

from __future__ import annotations

from tests.bed import quick_folder
from tests.checks.fortnight import FIRST, live_a_fortnight
from tests.household import Household


def test_every_promised_point_is_restorable_after_each_midnight():
    with quick_folder() as place:
        house = Household(place, FIRST)
        assert live_a_fortnight(house, place, volume_bytes=1 << 20, per_day=3)
