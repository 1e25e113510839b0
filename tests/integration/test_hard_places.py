"""Folders and state directories that refuse, on a small scale."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checks.hard_places import CHECKS, Check
from tests.loop import needs_root


@needs_root
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_place_that_refuses(check: Check, tmp_path: Path):
    print(check(tmp_path, 5))
