"""Single files of a point, and mounting it: real file systems, real tools, hostile names."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hsr.serving.mounting import _mount_at, looked_into
from hsr.serving.point import PointReader
from storage.mounts import mounts
from storage.scratch import is_scratch, sweep_scratch
from tests.command import PROGRAM, in_this_process
from tests.commands import run
from tests.loop import needs_root
from tests.unit.tiny import TinyVolume

needs_fuse = pytest.mark.skipif(
    not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="FUSE cannot be used here"
)
pytestmark = needs_fuse

TIME_NS = 1_588_655_105_123_456_789
NAMES = {
    "dir with space/q\"uo'te <3>": b"one",
    "dir with space/deep/er": b"two" * 40_000,
    "new\nline": b"three",
    "Ümläut \u2028": b"four",
    "-rf": b"five",
    "$(touch gone)": b"six",
    "empty": b"",
}


def make_tree(home: Path) -> Path:
    tree = home / "tree"
    for name, content in NAMES.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, ns=(TIME_NS, TIME_NS))
    (tree / "-rf").chmod(0o4751)
    return tree


@pytest.fixture
def ext4(tiny: TinyVolume, tmp_path: Path) -> TinyVolume:
    tree = make_tree(tmp_path)
    (tree / "link").symlink_to("/etc/hostname")
    (tree / "long link").symlink_to("x" * 200)
    os.mkfifo(tree / "pipe")
    tiny.resize(24 << 20)
    run("mkfs.ext4", "-q", "-F", "-d", str(tree), str(tiny.raw))
    tiny.capture()
    return tiny


@pytest.fixture
def ntfs(tiny: TinyVolume, tmp_path: Path) -> TinyVolume:
    tree = make_tree(tmp_path)
    tiny.resize(24 << 20)
    run("mkntfs", "-q", "-F", str(tiny.raw))
    for name in ("-rf", "empty", "new\nline"):
        subprocess.run(
            ["ntfscp", str(tiny.raw), str(tree / name), f"/{name}"], check=True, capture_output=True
        )
    tiny.capture()
    return tiny


def options(volume: TinyVolume) -> tuple[Path | str, ...]:
    return (volume.folder, "--volume", volume.name)


def test_ext4_is_listed(ext4: TinyVolume) -> None:
    ran = in_this_process("ls", *options(ext4), "--json")
    assert ran.code == 0, str(ran)
    kinds = {line["path"]: line["kind"] for line in ran.objects}
    assert kinds["/new\nline"] == "file"
    assert kinds["/dir with space"] == "folder"
    assert kinds["/link"] == "link"
    assert kinds["/pipe"] == "other"
    deep = in_this_process("ls", *options(ext4), "/dir with space")
    assert "q\"uo'te <3>" in deep.output


def test_ext4_comes_out_whole(ext4: TinyVolume, tmp_path: Path) -> None:
    ran = in_this_process("cp", *options(ext4), "--recursive", "/", tmp_path / "out", "--json")
    assert ran.code == 0, str(ran)
    out = tmp_path / "out"
    for name, content in NAMES.items():
        copy = out / name
        assert copy.read_bytes() == content
        assert (
            copy.stat().st_mtime_ns == TIME_NS // 1_000_000_000 * 1_000_000_000
            or copy.stat().st_mtime_ns == TIME_NS
        )
    assert stat.S_IMODE((out / "-rf").stat().st_mode) == 0o751
    assert (out / "link").readlink() == Path("/etc/hostname")
    assert (out / "long link").readlink() == Path("x" * 200)
    assert ran.objects[0]["skipped"] == ["/pipe"]
    assert not Path("gone").exists()


def test_one_file_comes_out_under_a_new_name_or_into_a_folder(ext4: TinyVolume, tmp_path: Path) -> None:
    assert in_this_process("cp", *options(ext4), "--", "/-rf", tmp_path).code == 0
    assert (tmp_path / "-rf").read_bytes() == b"five"
    assert in_this_process("cp", *options(ext4), "/new\nline", tmp_path / "new").code == 0
    assert (tmp_path / "new").read_bytes() == b"three"


def test_nothing_is_overwritten_and_no_link_followed(ext4: TinyVolume, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "empty").symlink_to(victim)
    ran = in_this_process("cp", *options(ext4), "/empty", tmp_path)
    assert ran.code == 2
    assert "exists already" in ran.errors
    assert victim.read_text() == "mine"
    assert in_this_process("cp", *options(ext4), "/link/x", tmp_path / "a").code == 2
    assert in_this_process("cp", *options(ext4), "/dir with space", tmp_path / "b").code == 2
    assert in_this_process("cp", *options(ext4), "/nope", tmp_path / "c").code == 2


def test_a_name_that_climbs_out_is_refused(ext4: TinyVolume, tmp_path: Path) -> None:
    plain = ext4.raw.read_bytes()
    assert b"empty" in plain
    ext4.raw.write_bytes(plain.replace(b"empty", b"../..", 1))
    run("debugfs", "-w", "-R", "feature -metadata_csum", str(ext4.raw))
    ext4.capture()
    ran = in_this_process("cp", *options(ext4), "--recursive", "/", tmp_path / "out")
    assert not (tmp_path.parent / "empty").exists()
    assert {path.name for path in tmp_path.iterdir()} <= {"tree", "out"}, str(ran)


def test_ntfs_is_listed_and_copied(ntfs: TinyVolume, tmp_path: Path) -> None:
    ran = in_this_process("ls", *options(ntfs), "--json")
    assert ran.code == 0, str(ran)
    assert {"/-rf", "/empty", "/new\nline"} <= {line["path"] for line in ran.objects}
    for name in ("-rf", "new\nline"):
        assert in_this_process("cp", *options(ntfs), "--", f"/{name}", tmp_path).code == 0
        assert (tmp_path / name).read_bytes() == NAMES[name]


def test_a_volume_without_a_file_system_is_refused_in_words(tiny: TinyVolume) -> None:
    tiny.put(0, bytes(1 << 20))
    tiny.capture()
    ran = in_this_process("ls", *options(tiny))
    assert ran.code == 2
    assert "no file system that is known" in ran.errors


def test_a_partition_is_chosen_by_number(ext4: TinyVolume, tmp_path: Path) -> None:
    inner = ext4.raw.read_bytes()
    disk = TinyVolume(tmp_path / "disk")
    disk.resize(64 << 20)
    table = "label: gpt\nstart=2048, size=16384\nstart=20480, size=49152\n"
    subprocess.run(["sfdisk", "-q", str(disk.raw)], input=table, text=True, check=True, capture_output=True)
    disk.put(20480 * 512, inner)
    disk.capture()
    ran = in_this_process("ls", *options(disk))
    assert ran.code == 2
    assert "partitions 1, 2" in ran.errors
    ran = in_this_process("ls", *options(disk), "--partition", "2")
    assert "Ümläut" in ran.output


def start_mount(volume: TinyVolume, at: Path, *more: str) -> subprocess.Popen[str]:
    at.mkdir(exist_ok=True)
    command = [PROGRAM, "mount", str(volume.folder), str(at), "--volume", volume.name, "--json", *more]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline(), "nothing was mounted"
    return process


def test_the_raw_file_is_the_volume(ext4: TinyVolume, tmp_path: Path) -> None:
    at = tmp_path / "at"
    process = start_mount(ext4, at, "--raw")
    assert (at / "disk.raw").read_bytes() == ext4.states[0]
    assert run("e2fsck", "-fn", str(at / "disk.raw"))
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert not os.path.ismount(at)


@needs_root
@pytest.mark.parametrize("name", ["at", "Ünter wegs\\040\n\udcff"])
def test_files_are_mounted_and_unmounted(ext4: TinyVolume, tmp_path: Path, name: str) -> None:
    at = tmp_path / name
    process = start_mount(ext4, at)
    assert (at / "new\nline").read_bytes() == b"three"
    with pytest.raises(OSError, match="Read-only"):
        (at / "x").touch()
    assert in_this_process("unmount", at).code == 0
    process.communicate()
    assert process.returncode == 0
    assert in_this_process("unmount", at).code == 2


def test_a_mount_in_the_root_folder_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _mount_at(Path("/proc"))[1] == "proc"
    monkeypatch.chdir("/proc")
    assert _mount_at(Path())[1] == "proc"


@needs_root
def test_killed_with_its_server_it_can_be_cleared(ext4: TinyVolume, tmp_path: Path) -> None:
    at = tmp_path / "at"
    process = start_mount(ext4, at)
    (server,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in (process.pid, int(server)):
        os.kill(pid, signal.SIGSTOP)  # so that neither clears up after the other
    for pid in (process.pid, int(server)):
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    with pytest.raises(OSError):  # at once, rather than to wait for a server that is gone
        (at / "dir with space" / "deep" / "er").read_bytes()
    (room,) = (
        mount.at.parent for mount in mounts() if is_scratch(mount.at.parent, "mount") and owned(mount.at)
    )
    sweep_scratch(room.parent)
    assert room.exists(), "what is mounted from it would be hard to find"
    assert in_this_process("unmount", at).code == 0
    assert not os.path.ismount(at)
    assert not room.exists()
    shutil.rmtree(at)


def owned(at: Path) -> bool:
    """Tell whether what is mounted by FUSE has lost its server."""
    try:
        at.stat()
    except OSError as error:
        return error.errno == errno.ENOTCONN
    return False


def test_what_programs_were_shown_goes_with_the_next_command(ext4: TinyVolume) -> None:
    """`ls` and its FUSE server, killed in the midst of it, leave a dead mount in a folder that is swept away."""
    with PointReader([ext4.image()]) as reader, looked_into(reader, partition=None) as (raw, _):
        room = raw.parent.parent
        assert is_scratch(room, "look")
        sweep_scratch(room.parent)
        assert raw.stat().st_size == len(ext4.states[0])
    assert not room.exists()
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from hsr.serving.mounting import looked_into; from hsr.serving.point import PointReader\n"
        "with PointReader([Path(sys.argv[1])]) as reader, looked_into(reader, partition=None) as (raw, _):\n"
        "    print(raw.parent.parent, flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(ext4.image())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        room = Path(process.stdout.readline().strip())
        (server,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for pid in (process.pid, int(server)):
            os.kill(pid, signal.SIGSTOP)
        for pid in (process.pid, int(server)):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while room.exists() and time.monotonic() < deadline:  # the server may take a moment to die
        sweep_scratch(room.parent)
    assert not room.exists()
