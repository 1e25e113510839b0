"""Volumes of many terabytes: memory stays within a constant."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.conftest import Tell
from tests.checks.vastness import bounded
from tests.vast import TB, make_vast_chain

pytestmark = pytest.mark.acceptance


def test_twenty_terabytes(tell: Tell, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    tell(
        "a base and 100 incrementals",
        lambda: bounded(make_vast_chain(folder, 20 * TB, incrementals=100, changed=0.01)),
    )
