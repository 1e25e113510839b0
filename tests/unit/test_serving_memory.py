"""How much memory decoded blocks take by default."""

from __future__ import annotations

from pathlib import Path

import pytest

from hsr.serving import memory

MIB = 1 << 20


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A machine with 8 GiB available, as the kernel tells it."""
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 9999999 kB\nMemAvailable: 8388608 kB\n")
    return tmp_path


def limit(machine: Path, group: str, file: str, value: str) -> None:
    folder = machine / "groups" / group
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text(value + "\n")


def available(machine: Path) -> int:
    return memory.available_bytes(machine / "proc", machine / "groups")


def test_what_the_machine_has(machine: Path) -> None:
    assert available(machine) == 8192 * MIB


def test_groups_of_the_second_version_and_those_around_them(machine: Path) -> None:
    (machine / "proc" / "self" / "cgroup").write_text("0::/outer/inner\n")
    limit(machine, "outer/inner", "memory.max", "max")
    limit(machine, "outer", "memory.max", str(512 * MIB))
    assert available(machine) == 512 * MIB
    limit(machine, "outer/inner", "memory.max", str(100 * MIB))
    assert available(machine) == 100 * MIB


def test_groups_of_the_first_version(machine: Path) -> None:
    (machine / "proc" / "self" / "cgroup").write_text("8:cpu:/x\n4:memory:/outer/inner\n0::/\n")
    limit(machine, "memory/outer/inner", "memory.limit_in_bytes", str(300 * MIB))
    limit(machine, "memory", "memory.limit_in_bytes", "9223372036854771712")
    assert available(machine) == 300 * MIB


def test_a_container_sees_its_own_limit_at_the_root(machine: Path) -> None:
    (machine / "proc" / "self" / "cgroup").write_text("0::/../../not/seen\n4:memory:/far/away\n")
    limit(machine, "memory", "memory.limit_in_bytes", str(200 * MIB))
    assert available(machine) == 200 * MIB


@pytest.mark.parametrize(
    ("there_bytes", "cache_bytes"), [(1 << 40, 1024 * MIB), (1 << 30, 64 * MIB), (1 << 20, 16 * MIB)]
)
def test_the_share(there_bytes: int, cache_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: there_bytes)
    assert memory.default_cache_bytes() == cache_bytes


def test_this_machine_has_some() -> None:
    assert memory.available_bytes() > 0
