"""Redis late, a folder late, a folder that does not answer: each is waited for, and all else goes on."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ops.redis_server import embed_redis
from storage.catalog import EventKind, ImageState
from tests.integration.agent_run import AgentRun, wait_for
from tests.integration.conftest import Stock

SHARE = """
import os, sys, time
import mfusepy

root, gate = sys.argv[1], sys.argv[3]

class Share(mfusepy.Operations):
    use_ns = True

    def _answer(self):
        while os.path.exists(gate):
            time.sleep(0.05)

    def getattr(self, path, fh=None):
        self._answer()
        try:
            found = os.lstat(root + path)
        except OSError as error:
            raise mfusepy.FuseOSError(error.errno)
        plain = {name: getattr(found, name) for name in ("st_gid", "st_mode", "st_nlink", "st_size", "st_uid")}
        return plain | {f"st_{time}": getattr(found, f"st_{time}_ns") for time in ("atime", "ctime", "mtime")}

    def readdir(self, path, fh):
        self._answer()
        return [".", "..", *os.listdir(root + path)]

    def mkdir(self, path, mode):
        os.mkdir(root + path, mode)

    def open(self, path, flags):
        return os.open(root + path, flags)

    def read(self, path, size, offset, fh):
        self._answer()
        return os.pread(fh, size, offset)

    def release(self, path, fh):
        os.close(fh)

mfusepy.FUSE(Share(), sys.argv[2], foreground=True, attr_timeout=0, entry_timeout=0)
"""


@contextmanager
def share(behind: Path, mount: Path, gate: Path) -> Iterator[None]:
    """Mount a folder in user space; it answers nothing while `gate` exists."""
    server = subprocess.Popen([sys.executable, "-c", SHARE, str(behind), str(mount), str(gate)])
    try:
        wait_for(mount.is_mount, "the mount")
        yield
    finally:
        gate.unlink(missing_ok=True)
        subprocess.run(["umount", "--lazy", str(mount)], check=True)
        server.wait(60)


def test_a_share_that_does_not_answer_is_lost_and_holds_nothing_up(tmp_path: Path, stock: Stock):
    behind, mount, gate = tmp_path / "behind", tmp_path / "mount", tmp_path / "gate"
    behind.mkdir()
    mount.mkdir()
    quick = {"ROLLFORWARD_SILENCE_S": "10", "ROLLFORWARD_POLL_S": "0.2", "ROLLFORWARD_RESCAN_S": "3600"}
    with share(behind, mount, gate), AgentRun(tmp_path / "run", quick, more_folders=[mount]) as run:
        try:
            shutil.copyfile(
                stock.images[0], behind / stock.names[0]
            )  # by somebody else, as it were: no event
            run.advance_until(lambda: run.is_good(stock.names[0]))
            assert [line["reason"] for line in run.log_events("folder is polled")] == [
                "it lies on fuse, where others may write unseen"
            ]
            gate.touch()
            wait_for(lambda: _problem(run, mount) == "does not answer", "the share to be lost")
            (run.folder / "W-b001.spf").write_bytes(b"no image, but judged all the same")
            wait_for(lambda: run.events(EventKind.FOUND_BAD), "other folders to go on")
            assert run.states()[stock.names[0]] is ImageState.GOOD
            gate.unlink()
            wait_for(lambda: _problem(run, mount) is None, "the share to be back")
            assert len(run.events(EventKind.FOLDER_LOST)) == len(run.events(EventKind.FOLDER_BACK)) == 1
            assert not run.events(EventKind.MISSING)
        finally:
            gate.unlink(missing_ok=True)  # else nothing that asks the share could end


def test_whatever_starts_late_is_waited_for(tmp_path: Path, stock: Stock):
    deep = tmp_path / ("d" * 100)  # too long for a socket, so that the server has an address of its own
    deep.mkdir()
    embedded = embed_redis(deep)
    run = AgentRun(deep, {"REDIS_URL": embedded.url})
    shutil.copyfile(stock.images[0], run.folder / stock.names[0])
    run.start()
    wait_for(lambda: _told(run, "no way to Redis"), "that Redis is missed")
    server = subprocess.Popen(embedded.command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        assert server.stdin is not None
        server.stdin.write(embedded.configuration.encode())
        server.stdin.close()
        run.wait_good(stock.names[0])
        run.stop()
        away = run.folder.rename(deep / "unplugged")
        with run:
            wait_for(lambda: _problem(run, run.folder), "the folder to be missed")
            assert run.states() == {stock.names[0]: ImageState.GOOD}
            shutil.copyfile(stock.images[1], away / stock.names[1])
            away.rename(run.folder)
            run.wait_good(*stock.names[:2])
            assert len(run.events(EventKind.FOLDER_LOST)) == len(run.events(EventKind.FOLDER_BACK)) == 1
    finally:
        server.terminate()
        server.wait()


def _problem(run: AgentRun, folder: Path) -> str | None:
    return next((found.problem for found in run.folders() if found.path == str(folder)), None)


def _told(run: AgentRun, words: str) -> bool:
    return any(str(line.get("event", "")).startswith(words) for line in run.log_lines())
