"""Folders and state directories that refuse, with a day's images in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.conftest import Tell
from tests.checks.hard_places import CHECKS, Check
from tests.loop import needs_root

pytestmark = [pytest.mark.acceptance, needs_root]

IMAGES = 88
"""All of one day, a quarter of an hour apart."""


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_place_that_refuses(tell: Tell, tmp_path: Path, check: Check) -> None:
    tell(check.__name__.replace("_", " "), lambda: check(tmp_path, IMAGES))
