"""A change of the password that is stopped at any step leaves the old password or the new one, and no other trace."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.bed import quick_folder
from tests.command import in_this_process
from tests.unit.tiny import BLOCK, noise

STOPPED = 9
STEPS_MAX = 20

PROGRAM = """
import os, sys
left = int(sys.argv.pop(1))

def stopping(real):
    def call(*arguments, **named):
        step()
        result = real(*arguments, **named)
        step()
        return result
    return call

def step():
    global left
    left -= 1
    if left == 0:
        os._exit(9)

for name in ("fsync", "replace"):
    setattr(os, name, stopping(getattr(os, name)))
from ops.cli import main
main()
"""


def test_stopped_at_every_step() -> None:
    with quick_folder() as folder:
        images, files = folder / "images", [folder / "one", folder / "two"]
        images.mkdir()
        (folder / "disk.raw").write_bytes(noise(BLOCK))
        for file in files:
            file.touch(mode=0o600)
            file.write_text(file.name)
        capture = (
            "capture",
            folder / "disk.raw",
            "--into",
            images,
            "--volume",
            "D",
            "--password-file",
            files[0],
        )
        assert in_this_process(*capture).code == 0
        before = {path.name for path in images.iterdir()}
        codes = []
        for step in range(1, STEPS_MAX):
            codes.append(change(step, images, *files))
            if opens(images, files[1]):
                assert not opens(images, files[0])
                files.reverse()
            assert opens(images, files[0])
            if codes[-1] == 0:
                break
        assert codes == [*[STOPPED] * (len(codes) - 1), 0]
        assert len(codes) > 6, f"stopped at {len(codes) - 1} steps only"
        assert {path.name for path in images.iterdir()} == before, "what was left behind was not swept away"


def change(step: int, images: Path, old: Path, new: Path) -> int:
    arguments = [
        "password",
        "change",
        images,
        "--volume",
        "D",
        "--password-file",
        old,
        "--new-password-file",
        new,
    ]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(step), *arguments], capture_output=True, check=False
    )
    assert done.returncode in (0, STOPPED), done.stderr.decode()
    return done.returncode


def opens(images: Path, file: Path) -> bool:
    target = images.parent / "restored.raw"
    restore = ("restore", images, "--volume", "D", "--to", target, "--overwrite", "--password-file", file)
    ran = in_this_process(*restore)
    assert ran.code in (0, 10), str(ran)
    return ran.code == 0
