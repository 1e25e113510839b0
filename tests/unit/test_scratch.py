"""Scratch folders go with their owners, however these end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from policies.errors import ConfigurationError
from storage.scratch import is_scratch, runtime_folder, scratch_folder, sweep_scratch

HOLD = """
import sys
import time
from pathlib import Path
from storage.scratch import scratch_folder
with scratch_folder("test", Path(sys.argv[1])) as folder:
    (folder / "in it").mkdir()
    (folder / "in it" / "file").write_text("x")
    print(folder, flush=True)
    sys.stdin.read()
"""


def hold(room: Path) -> tuple[subprocess.Popen[str], Path]:
    command = [sys.executable, "-c", HOLD, str(room)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_a_folder_is_private_and_gone_afterwards(tmp_path: Path) -> None:
    with scratch_folder("test", tmp_path) as folder:
        assert folder.parent == tmp_path
        assert folder.stat().st_mode & 0o777 == 0o700
        assert is_scratch(folder, "test")
        assert not is_scratch(folder, "other")
        (folder / "file").touch()
    assert not folder.exists()


def test_what_a_killed_owner_left_is_swept_and_what_a_living_one_has_is_not(tmp_path: Path) -> None:
    dead, left = hold(tmp_path)
    alive, kept = hold(tmp_path)
    dead.send_signal(signal.SIGKILL)
    dead.communicate()
    assert left.exists()
    with scratch_folder("other", tmp_path) as folder:
        assert not left.exists()
        assert (kept / "in it" / "file").read_text() == "x"
        sweep_scratch(tmp_path)
        assert folder.exists()
    alive.communicate("")
    assert not kept.exists()
    assert alive.returncode == 0


def test_a_child_that_lives_on_keeps_the_folder(tmp_path: Path) -> None:
    ended, end = os.pipe()
    owner = os.fork()
    if owner == 0:
        with scratch_folder("test", tmp_path):
            if os.fork() == 0:
                os.close(end)
                os.read(ended, 1)
                os._exit(0)
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(owner, 0)
    sweep_scratch(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    os.close(end)
    deadline = time.monotonic() + 60
    while list(tmp_path.iterdir()) and time.monotonic() < deadline:
        sweep_scratch(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["rollforward.test", "rollforward-test-abcdefgh", "rollforward.test.abcdefgh.x"]
)
def test_other_names_are_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir(mode=0o700)
    sweep_scratch(tmp_path)
    assert (tmp_path / name).exists()


def test_links_files_and_folders_that_others_may_write_to_are_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir(mode=0o700)
    (target / "file").touch()
    (tmp_path / "rollforward.test.aaaaaaaa").symlink_to(target)
    (tmp_path / "rollforward.test.bbbbbbbb").touch()
    (tmp_path / "rollforward.test.cccccccc").mkdir()
    (tmp_path / "rollforward.test.cccccccc").chmod(0o777)
    sweep_scratch(tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    assert (target / "file").exists()


def test_a_room_that_is_not_there_is_said(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigurationError, match="no folder can be made"),
        scratch_folder("test", tmp_path / "no"),
    ):
        pass


def test_many_at_once_do_not_sweep_each_other(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from storage.scratch import scratch_folder\n"
        "for _ in range(200):\n"
        "    with scratch_folder('test', Path(sys.argv[1])) as folder: (folder / 'x').touch(); (folder / 'x').stat()\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(4)]
    assert [process.wait() for process in running] == [0] * 4
    assert not list(tmp_path.iterdir())


def test_the_runtime_folder_is_one_of_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert runtime_folder() == tmp_path
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "no"))
    assert runtime_folder() != tmp_path / "no"
