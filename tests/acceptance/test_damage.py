"""Damage of every kind is found, named and refused."""

from __future__ import annotations

import dataclasses

import pytest

from tests.acceptance.conftest import Tell
from tests.bed import Bed
from tests.checks import damage
from tests.command import in_this_process

pytestmark = pytest.mark.acceptance


@pytest.fixture(scope="module")
def patients(bed: Bed) -> Bed:
    """The same bed; some hundred commands, so that they are run in this process."""
    quick = dataclasses.replace(bed, command=in_this_process)
    quick.__dict__["chain"] = bed.chain
    return quick


@pytest.mark.parametrize("check", damage.CHECKS, ids=lambda check: check.__name__)
def test_damage(tell: Tell, patients: Bed, check: damage.Check) -> None:
    tell(check.__name__.replace("_", " "), lambda: check(patients))
