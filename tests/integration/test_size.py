"""Volumes of many terabytes, made small: the same work on the chain of a volume that has as many blocks as fit."""

from __future__ import annotations

from pathlib import Path

from tests.checks.vastness import LIMIT_MIB, all_works, captures_bounded, rolling_bounded
from tests.vast import TB, make_vast_chain


def test_memory_stays_bounded(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    spent = all_works(make_vast_chain(folder, TB // 50, incrementals=40, changed=0.02))
    assert all(each.peak_mib < LIMIT_MIB for each in spent), spent


def test_capturing_a_sparse_volume_takes_little_memory_and_time(tmp_path: Path) -> None:
    """As many blocks as 12 TB have of the larger size: one fingerprint each would be 390 MB, held twice before."""
    folder = tmp_path / "images"
    folder.mkdir()
    assert captures_bounded(tmp_path, folder, (1 << 40) - 512)


def test_rolling_a_disk_forward_takes_little_memory(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    assert rolling_bounded(tmp_path, make_vast_chain(folder, TB // 50, incrementals=1, changed=0.002))
