"""The first weeks of the simulated year: an undisturbed month, then a week without the agent."""

from __future__ import annotations

from tests.checks.simulated_year import check_year


def test_until_the_agent_has_made_up_for_its_week_off():
    figure = check_year("Europe/Berlin", count=5_200)
    assert "2 named days" in figure
