"""Disks on a share of a real smbd that a real kernel mounts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.conftest import Tell
from tests.checks.rolling import KINDS
from tests.checks.shares import lived_on_a_share

pytestmark = pytest.mark.acceptance


def test_share(tell: Tell, tmp_path: Path) -> None:
    tell("a server killed under each disk", lambda: lived_on_a_share(tmp_path, KINDS))
