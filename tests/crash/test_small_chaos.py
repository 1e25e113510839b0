"""Kills at random moments while days roll over, on a small scale."""

from __future__ import annotations

from tests.bed import quick_folder
from tests.checks.chaos import survive_kills


def test_a_killed_agents_folder_is_that_of_an_undisturbed_one():
    with quick_folder() as place:
        assert survive_kills(place, kills=10, days=3, per_day=2)
