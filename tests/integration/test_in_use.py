"""Volumes in use: frozen, by LVM snapshots, between the administrator's commands; nothing stays behind."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from policies.errors import ConfigurationError, SourceError
from storage.capture import capture
from storage.freezing import Frozen
from storage.source_device import DeviceAccess, Stillness
from tests.command import PROGRAM
from tests.command import in_this_process as rollforward
from tests.commands import is_clean_ext4, run
from tests.loop import loop_device, needs_root
from tests.unit.tiny import START, TinyVolume, names, noise

MIB = 1 << 20

STAND_IN = r"""#!/usr/bin/env python3
import json, os, pathlib, shutil, sys
home = pathlib.Path(__file__).parent
tool, words = pathlib.Path(sys.argv[0]).name, sys.argv[1:]
known = home / "volumes.json"
volumes = json.loads(known.read_text())
with (home / "log").open("a") as log:
    print(tool, *words, file=log)
def option(name):
    return words[words.index(name) + 1] if name in words else None
if tool == "lvcreate":
    if (home / "refuse").exists():
        sys.exit("  VG vg: insufficient free space")
    name = option("--name")
    shutil.copyfile(volumes["data"]["lv_path"], home / name)
    volumes[name] = {"vg_name": "vg", "lv_name": name, "lv_path": str(home / name), "tag": option("--addtag")}
elif tool == "lvremove":
    name = words[-1].partition("/")[2]
    pathlib.Path(volumes.pop(name)["lv_path"]).unlink()
else:
    chosen = (option("--select") or "").partition("=")[2]
    asked = words[-1].rpartition("/")[2]
    full = (home / "full").exists()
    rows = [row for row in volumes.values()
            if (chosen and chosen in (row["tag"], row["lv_name"])) or (not chosen and asked == row["lv_name"])]
    about = {"segtype": "linear", "lv_snapshot_invalid": "1" if full else ""}
    about |= {"lv_attr": "sri-I-s---" if full else "sri-a-s---", "data_percent": "100.00" if full else "3.10"}
    fields = option("-o").split(",")
    told = [{field: {**about, **row}[field] for field in fields} for row in rows]
    print(json.dumps({"report": [{"lv": told}]}))
known.write_text(json.dumps(volumes))
"""
"""Stands in for lvm2 where the kernel has no device-mapper: answers like the real one's; snapshots that are copies."""


@pytest.fixture
def tiny(tmp_path: Path) -> TinyVolume:
    return TinyVolume(tmp_path)


@pytest.fixture
def lvm(tmp_path: Path, tiny: TinyVolume, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "lvm"
    home.mkdir()
    for name in ("lvs", "lvcreate", "lvremove"):
        (home / name).write_text(STAND_IN)
        (home / name).chmod(0o755)
    data = home / "data"
    data.symlink_to(tiny.raw)
    row = {"vg_name": "vg", "lv_name": "data", "lv_path": str(data), "tag": ""}
    (home / "volumes.json").write_text(f'{{"data": {str(row).replace(chr(39), chr(34))}}}')
    monkeypatch.setenv("PATH", f"{home}:{os.environ['PATH']}")
    return home


@pytest.fixture
def ext4(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A mounted ext4 file system: its device and its mount point."""
    file, mounted = tmp_path / "volume.ext4", tmp_path / "mounted"
    mounted.mkdir()
    with file.open("wb") as image:
        image.truncate(32 * MIB)
    run("mkfs.ext4", "-q", "-F", str(file))
    with loop_device(file) as device:
        run("mount", str(device), str(mounted))
        try:
            yield device, mounted
        finally:
            unmount(mounted)


def unmount(mounted: Path) -> None:
    """Unmount, as soon as the process that thaws it after a kill, and is no child of ours, has let go of it."""
    limit = time.monotonic() + 60
    while True:
        try:
            run("umount", str(mounted))
        except RuntimeError as error:
            if "busy" not in str(error) or time.monotonic() > limit:
                raise
            time.sleep(0.01)
        else:
            return


def can_write(mounted: Path, limit_s: float = 20) -> bool:
    writing = threading.Thread(target=lambda: (mounted / "written").write_bytes(b"x"), daemon=True)
    writing.start()
    writing.join(limit_s)
    return not writing.is_alive()


def frozen(path: Path, mounted: Path, folder: Path, **still: object) -> DeviceAccess:
    return DeviceAccess(path, Stillness(mounted, **still), folder)


# --- freezing


@needs_root
def test_a_frozen_file_system_is_captured_as_it_is_mounted(tiny, ext4):
    device, mounted = ext4
    for number in range(3):
        (mounted / f"file-{number}").write_bytes(noise(3 * MIB, number))
        (mounted / "file-0").write_bytes(noise(2 * MIB, 10 + number))
        if number == 1:
            (mounted / "file-1").unlink()
        capture(frozen(device, mounted, tiny.folder), tiny.folder, tiny.name, now=START)
        assert can_write(mounted)
        target = tiny.folder.parent / "restored.raw"
        tiny.restore(number, target, overwrite=True)
        assert is_clean_ext4(target)
        out = tiny.folder.parent / "dumped"
        run("debugfs", "-R", f"dump file-0 {out}", str(target))
        assert out.read_bytes() == noise(2 * MIB, 10 + number), "what a cache held was captured"


@needs_root
def test_what_is_in_use_is_refused_still(tiny, ext4, tmp_path):
    device, mounted = ext4
    with pytest.raises(SourceError, match="in use read-write") as caught:
        capture(device, tiny.folder, tiny.name, now=START)
    assert "--freeze" in (caught.value.hint or "")
    with pytest.raises(ConfigurationError, match="is not on"):
        capture(frozen(device, Path("/proc"), tiny.folder), tiny.folder, tiny.name, now=START)
    with pytest.raises(ConfigurationError, match="holds the folder"):
        capture(frozen(device, mounted, mounted), tiny.folder, tiny.name, now=START)
    with pytest.raises(ConfigurationError, match="no file system is mounted"), Frozen(tmp_path, 10):
        pass
    assert can_write(mounted)


@needs_root
def test_it_is_thawed_when_the_time_is_up_or_somebody_thaws_it(tiny, ext4):
    device, mounted = ext4
    with pytest.raises(SourceError, match="thawed before all was read"):
        capture(frozen(device, mounted, tiny.folder, freeze_limit_s=0.01), tiny.folder, tiny.name, now=START)
    assert can_write(mounted)
    with Frozen(mounted, 60) as still:
        run("fsfreeze", "--unfreeze", str(mounted))
        with pytest.raises(SourceError, match="thawed"):
            still.confirm()
    assert can_write(mounted)
    assert names(tiny.folder) == [".rollforward"]


@needs_root
def test_what_somebody_else_froze_stays_frozen(ext4):
    _, mounted = ext4
    run("fsfreeze", "--freeze", str(mounted))
    try:
        with pytest.raises(SourceError, match="cannot be frozen"), Frozen(mounted, 60):
            pass
    finally:
        run("fsfreeze", "--unfreeze", str(mounted))  # fails if it was thawed by us


@needs_root
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_is_thawed_when_the_capture_is_killed(tiny, ext4, tmp_path, number):
    """The capture waits in the middle, for a FIFO that stands for its source to be read on."""
    _, mounted = ext4
    script = (
        "import sys, time; from pathlib import Path; from storage.freezing import Frozen\n"
        "from ops.interruption import Interruption\n"
        "with Interruption(), Frozen(Path(sys.argv[1]), 600):\n"
        "    print('frozen', flush=True); sys.stdin.read()\n"
    )
    python = str(Path(PROGRAM).with_name("python"))
    with subprocess.Popen(
        [python, "-c", script, str(mounted)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == b"frozen\n"
        killed.send_signal(number)
        killed.wait()
    assert can_write(mounted)


# --- LVM


def snapshot(tiny: TinyVolume) -> DeviceAccess:
    return DeviceAccess(tiny.raw.parent / "lvm" / "data", Stillness(snapshot=True), tiny.folder)


def test_a_snapshot_is_there_only_while_it_is_read(tiny, lvm):
    tiny.raw.write_bytes(noise(MIB))
    access = snapshot(tiny)
    made = capture(
        access, tiny.folder, tiny.name, now=START, progress=lambda *_: tiny.raw.write_bytes(noise(MIB, 1))
    )
    assert names(lvm) == ["data", "log", "lvcreate", "lvremove", "lvs", "volumes.json"]
    assert (made.header.metadata["source"], access.notes) == (str(lvm / "data"), [])
    tiny.states[0] = noise(MIB)
    tiny.check()
    created = next(line for line in (lvm / "log").read_text().splitlines() if line.startswith("lvcreate"))
    assert "--permission r" in created
    assert "--extents 20%ORIGIN" in created


def test_a_snapshot_that_ran_full_or_cannot_be_made_publishes_nothing(tiny, lvm):
    tiny.raw.write_bytes(noise(MIB))
    (lvm / "full").touch()
    with pytest.raises(SourceError, match="ran full") as caught:
        capture(snapshot(tiny), tiny.folder, tiny.name, now=START)
    assert "--snapshot-size" in (caught.value.hint or "")
    (lvm / "full").unlink()
    (lvm / "refuse").touch()
    with pytest.raises(SourceError, match="insufficient free space"):
        capture(snapshot(tiny), tiny.folder, tiny.name, now=START)
    (lvm / "refuse").unlink()
    assert names(lvm) == ["data", "log", "lvcreate", "lvremove", "lvs", "volumes.json"]
    assert names(tiny.folder) == [".rollforward"]


def test_snapshots_of_killed_captures_are_removed_and_named(tiny, lvm):
    tiny.raw.write_bytes(noise(MIB))
    script = (
        "import os, signal, sys; from pathlib import Path; from storage.capture import capture\n"
        "from storage.source_device import DeviceAccess, Stillness; from tests.unit.tiny import START\n"
        "data, folder, name = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]\n"
        "access = DeviceAccess(data, Stillness(snapshot=True), folder)\n"
        "die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "capture(access, folder, name, now=START, progress=die)\n"
    )
    python = str(Path(PROGRAM).with_name("python"))
    command = [python, "-c", script, str(lvm / "data"), str(tiny.folder), tiny.name]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == -signal.SIGKILL
    assert [name for name in names(lvm) if name.startswith("rf-")]
    access = snapshot(tiny)
    capture(access, tiny.folder, tiny.name, now=START)
    assert ["left by a capture that was killed" in note for note in access.notes] == [True]
    assert not [name for name in names(lvm) if name.startswith("rf-")]


@needs_root
@pytest.mark.skipif(
    "device-mapper" not in Path("/proc/devices").read_text(),
    reason="this kernel has no device-mapper, so there is no LVM",
)
def test_a_real_logical_volume(tiny, tmp_path):
    with (tmp_path / "pv").open("wb") as file:
        file.truncate(128 * MIB)
    group = f"rftest{os.getpid()}"
    with loop_device(tmp_path / "pv") as device:
        run("vgcreate", group, str(device))
        try:
            run("lvcreate", "--yes", "--size", "32M", "--name", "data", group)
            path, mounted = Path(f"/dev/{group}/data"), tmp_path / "mounted"
            run("mkfs.ext4", "-q", str(path))
            mounted.mkdir()
            run("mount", str(path), str(mounted))
            try:
                (mounted / "file").write_bytes(noise(3 * MIB))
                access = DeviceAccess(path, Stillness(mounted, snapshot=True), tiny.folder)
                capture(access, tiny.folder, tiny.name, now=START)
                assert can_write(mounted)
            finally:
                run("umount", str(mounted))
            assert run("lvs", "--noheadings", "-o", "lv_name", group).split() == ["data"]
            target = tmp_path / "restored.raw"
            tiny.restore(0, target)
            assert is_clean_ext4(target)
        finally:
            run("vgremove", "--force", "--yes", group)


# --- the administrator's commands


def captured(tiny: TinyVolume, *options: object):
    return rollforward("capture", tiny.raw, "--into", tiny.folder, "--volume", tiny.name, *options)


def shell(words: str) -> str:
    return f"sh -c {shlex.quote(words)}"


def test_commands_run_around_a_capture(tiny, tmp_path):
    tiny.raw.write_bytes(noise(MIB))
    log = tmp_path / "log"
    told = 'echo "$ROLLFORWARD_WHEN $ROLLFORWARD_VOLUME $ROLLFORWARD_RESULT $ROLLFORWARD_IMAGE"'
    both = ("--before", shell(f"{told} >> {log}"), "--after", shell(f"{told} >> {log}"))
    assert captured(tiny, *both).code == 0
    assert log.read_text().splitlines() == ["before D_VOL  ", f"after D_VOL captured {tiny.image()}"]
    assert captured(tiny, *both[:2], "--after", "false").code == 5
    assert tiny.image(1).exists()


def test_a_command_before_it_that_fails_stops_the_capture(tiny, tmp_path):
    tiny.raw.write_bytes(noise(MIB))
    after = ("--after", shell(f'echo "$ROLLFORWARD_RESULT: $ROLLFORWARD_ERROR" > {tmp_path}/log'))
    done = captured(tiny, "--before", "false", *after)
    assert (done.code, names(tiny.folder)) == (5, [])
    assert "before the capture failed: exit 1" in done.errors
    assert (tmp_path / "log").read_text().startswith("failed: false: the command before the capture failed")
    assert captured(tiny, "--before", "/nowhere/at/all").code == 2
    done = captured(tiny, "--before", shell("sleep 100 & wait"), "--hook-limit", "0.2")
    assert (done.code, "takes longer" in done.errors) == (5, True)
    done = captured(tiny, "--before", "false", "--after", shell("kill -9 $$"))
    assert "Besides:" in done.errors


@needs_root
def test_commands_vouch_for_a_mounted_device(tiny, ext4):
    device, mounted = ext4
    command = ("capture", device, "--into", tiny.folder, "--volume", "D_VOL")
    still = ("--before", f"fsfreeze -f {mounted}", "--after", f"fsfreeze -u {mounted}")
    assert rollforward(*command, *still[:2], "--after", "true").code == 0
    assert rollforward(*command, "--before", "true", *still[2:]).code == 0
    assert rollforward(*command, "--before", "true").code == 5
    assert can_write(mounted)


def test_all_that_a_command_started_ends_with_it(tiny, tmp_path):
    """Also what does not listen when it is asked to end, while the command itself does."""
    tiny.raw.write_bytes(noise(1000))
    script = tmp_path / "script"
    script.write_text("(trap '' TERM; exec sleep 600) &\nwait\n")
    limits = ("--hook-limit", "1")
    ran = rollforward(
        "capture", tiny.raw, "--into", tiny.folder, "--volume", "V", "--before", f"sh {script}", *limits
    )
    assert (ran.code, "longer than 1 seconds" in ran.errors) == (5, True), str(ran)
    deadline = time.monotonic() + 60
    while sleepers_of(script):
        assert time.monotonic() < deadline


def sleepers_of(script: Path) -> list[str]:
    """List what still runs with the environment of that command."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (entry / "cmdline").read_bytes() == b"sleep\x00600\x00":
                told = (entry / "environ").read_bytes()
                if f"ROLLFORWARD_FOLDER={script.parent}/".encode() in told:
                    found.append(entry.name)
    return found
