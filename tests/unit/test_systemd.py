"""systemd: what it is told, and the unit that it is given."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from ops.sd_notify import tell_systemd
from tests.command import in_own_process


def test_what_is_told_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(address))
        listener.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", str(address))
        tell_systemd("READY=1", "STATUS=runs")
        assert listener.recv(4096) == b"READY=1\nSTATUS=runs"
    tell_systemd("WATCHDOG=1")  # nobody listens any more


def test_an_abstract_address_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    name = f"rollforward-{tmp_path.name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + name)
        listener.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)
        tell_systemd("STOPPING=1")
        assert listener.recv(4096) == b"STOPPING=1"


def test_without_systemd_nothing_happens(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    tell_systemd("READY=1")


def test_the_unit_is_one_that_systemd_takes(tmp_path: Path):
    state = tmp_path / "state of 100% of us"
    done = in_own_process("systemd", "--state", state)
    assert done.code == 0
    unit = tmp_path / "rollforward.service"
    unit.write_text(done.output)
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("systemd-analyze is not there")
    checked = subprocess.run(
        [tool, "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False
    )
    complaints = [line for line in checked.stderr.splitlines() if "rollforward.service" in line]
    assert not complaints, complaints
    (line,) = [line for line in done.output.splitlines() if line.startswith("ExecStart=")]
    assert '"' + str(state).replace("%", "%%") + '"' in line


def test_the_unit_as_json():
    done = in_own_process("systemd", "--json")
    assert json.loads(done.output)["unit"].startswith("# Written by")
