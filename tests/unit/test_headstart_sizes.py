"""A volume that a format cannot hold is refused when a job is saved, with the formats that can."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from policies.holdings import Holding
from tests.catalogued import Office
from tests.checks.life import Life, base_of, point

NOW = datetime(2026, 3, 2, 6, tzinfo=UTC)
TWENTY_TB = 20 << 40


@pytest.fixture
def office(tmp_path: Path) -> Office:
    made = Office(tmp_path)
    made.manage(NOW)
    large = replace(point(0, NOW), volume_bytes=TWENTY_TB)
    base = Holding(replace(base_of(large), verified=True), NOW, NOW, NOW)
    made.fill(Life(ZoneInfo("UTC"), holdings={base.name: base}), NOW)
    disks = tmp_path / "disks"
    disks.mkdir()
    made.did("location", "add", "here", disks)
    return made


@pytest.mark.parametrize("kind", ["vhd", "vhd-fixed", "vmdk"])
def test_a_format_that_cannot_hold_it_is_refused_with_those_that_can(office: Office, kind: str):
    ran = office.do("hsr", "add", "db", office.folder, "--location", "here", "--format", kind)
    assert ran.code == 2
    assert f"is too large for {kind}" in str(ran)
    assert "These can hold it: vmdk-flat, vhdx, qcow2, raw" in str(ran)


def test_a_partition_table_that_cannot_hold_it_is_refused(office: Office):
    words = ["--format", "raw", "--wrap", "mbr"]
    ran = office.do("hsr", "add", "db", office.folder, "--location", "here", *words)
    assert ran.code == 2
    assert "--wrap gpt" in str(ran)
