"""The catalogue deleted in mid-life, on a small scale."""

from __future__ import annotations

from tests.bed import quick_folder
from tests.checks.fortnight import FIRST
from tests.checks.lost_catalogue import survive_loss
from tests.household import Household


def test_promises_outlive_the_catalogue_and_nothing_goes_before_jobs_reported():
    with quick_folder() as place:
        house = Household(place, FIRST)
        print(survive_loss(house, place, volume_bytes=1 << 20, per_day=4))
        house.catalog.close()
