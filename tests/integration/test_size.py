"""Volumes of many terabytes, made small: the same work on the chain of a volume that has as many blocks as fit."""

from __future__ import annotations

from pathlib import Path

from tests.checks.vastness import LIMIT_MIB, all_works
from tests.vast import TB, make_vast_chain


def test_memory_stays_bounded(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    spent = all_works(make_vast_chain(folder, TB // 50, incrementals=40, changed=0.02))
    assert all(each.peak_mib < LIMIT_MIB for each in spent), spent
