"""A year of a chain, simulated: what is promised at every midnight, what is kept on four days worked out by hand."""

from __future__ import annotations

import pytest

from tests.acceptance.conftest import Tell
from tests.checks.simulated_year import check_year

pytestmark = pytest.mark.acceptance


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York"])
def test_year(tell: Tell, zone: str) -> None:
    tell(f"a simulated year in {zone}", lambda: check_year(zone))
