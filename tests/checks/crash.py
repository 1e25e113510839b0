"""Killed at any moment: nothing half under a final name, the next run succeeds, what was there is exact.

Moments are drawn from the time that the command needs when nobody kills it: most of them from the part in which
it writes, some from its start.
"""

from __future__ import annotations

import dataclasses
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from storage.parts import image_files
from tests.bed import VOLUME, Bed, content_of, image_names, partial_files
from tests.command import PROGRAM
from tests.commands import run, sha256_of
from tests.loop import loop_device

_LIMIT_S = 120.0

Check = Callable[[Bed, int], str]
_GLANCE_S = 0.001


@dataclasses.dataclass(slots=True)
class Moments:
    """When a command that nobody kills begins to write, and when it ends, in seconds from its start.

    A kill that comes too late tells anew when it ends: the machine may be less busy by now.
    """

    writes_s: float
    ends_s: float


@dataclasses.dataclass(slots=True)
class Toll:
    """What the kills met; only those that met a running command count."""

    kills: int = 0
    missed: int = 0
    partial: int = 0
    published: int = 0

    def __str__(self) -> str:
        return (
            f"{self.kills} kills while it ran, {self.partial} left a partial file, "
            f"{self.published} came after publishing; {self.missed} came too late to count"
        )

    def until(self, kills: int) -> Iterator[int]:
        """Count rounds, until that many more kills have met a running command; three times as many at most."""
        goal = self.kills + kills
        for number in range(3 * kills):
            if self.kills < goal:
                yield number


def killed_capture(bed: Bed, kills: int) -> str:
    """Captures: a base in one case of four, else an incremental."""
    chooser, toll = random.Random(3), Toll()
    replay = bed.history.replay(bed.folder / "killed.raw")
    start = min(bed.per_day, bed.last - 1)
    for number, names in ((0, []), (start + 1, image_names(bed.chain)[: start + 1])):
        replay.roll_to(number)
        moments = _undisturbed(bed, lambda folder: _capture(bed, replay.path, folder), names)
        share = kills // 4 if number == 0 else kills - kills // 4
        for _ in toll.until(share):
            folder = bed.linked(bed.chain, names)
            met = _kill(_capture(bed, replay.path, folder), folder, moments, chooser, toll)
            new = len(image_names(folder)) - len(names)
            toll.published += met and new
            if image_names(folder):
                bed.must_verify(folder)
            bed.must("capture", replay.path, "--into", folder, "--volume", VOLUME, *bed.spanning)
            assert not partial_files(folder), partial_files(folder)
            bed.must_verify(folder)
            point = chooser.choice([*range(number), number + new])
            target = bed.restore(folder, point)
            bed.must_be(target, min(point, number))
            target.unlink()
            shutil.rmtree(folder)
    replay.path.unlink()
    return str(toll)


def killed_consolidation(bed: Bed, kills: int) -> str:
    """Consolidations of everything: an incremental one, or a synthetic full in one case of four."""
    chooser, toll = random.Random(4), Toll()
    names = image_names(bed.chain)
    monthly = ("--after", "0", "--upto", str(bed.last), "--tier", "monthly", *bed.spanning)
    full = ("--upto", str(bed.last), "--full", *bed.spanning)
    for wanted, share in ((monthly, kills - kills // 4), (full, kills // 4)):
        moments = _undisturbed(bed, lambda folder, wanted=wanted: _consolidate(folder, wanted), names)
        right = bed.linked(bed.chain)
        (made,) = bed.must("consolidate", right, "--volume", VOLUME, *wanted).objects
        for number in toll.until(share):
            folder = bed.linked(bed.chain, names)
            met = _kill(_consolidate(folder, wanted), folder, moments, chooser, toll)
            target = folder / Path(made["path"]).name
            if target.exists():
                toll.published += met
            else:
                (again,) = bed.must("consolidate", folder, "--volume", VOLUME, *wanted).objects
                assert again["root"] == made["root"], "the second run made something else"
            assert not [path for path in partial_files(folder) if target.name in path.name]
            bed.must_verify(target)
            for one, other in zip(image_files(target), image_files(Path(made["path"])), strict=True):
                assert sha256_of(one) == sha256_of(other)
            if number % 5 == 0:
                bed.must_restore(folder, [chooser.choice(bed.numbers), bed.last])
            shutil.rmtree(folder)
    return str(toll)


def killed_squash(bed: Bed, kills: int) -> str:
    """Squashing a monthly: the result is there whole or not at all, and the monthly is as it was."""
    chooser, toll = random.Random(7), Toll()
    source = bed.consolidate(bed.linked(bed.chain), 0, bed.last, "monthly")
    before = content_of(source)
    moments = _undisturbed(bed, lambda folder: _squash(source, folder), [])
    (right,) = bed.must(*_squash(source, bed.new_folder("right"))).objects
    assert right["status"] == "squashed", right
    for _ in toll.until(kills):
        folder = bed.new_folder("target")
        met = _kill(_squash(source, folder), folder, moments, chooser, toll)
        made = folder / source.name
        if made.exists():
            toll.published += met
        else:
            bed.must(*_squash(source, folder))
        assert not partial_files(folder), partial_files(folder)
        assert content_of(made) == content_of(Path(right["path"])), "the second run made something else"
        assert content_of(source) == before
        shutil.rmtree(folder)
    return str(toll)


def killed_restore(bed: Bed, kills: int) -> str:
    """Restores: to a new file, and in one case of three over an existing file."""
    chooser, toll = random.Random(5), Toll()
    existing = bed.restore(bed.chain, 0)
    moments = _undisturbed(bed, lambda folder: _restore(bed, folder / "target.raw"), None)
    for number in toll.until(kills):
        folder = bed.new_folder("target")
        target = folder / "target.raw"
        if over := number % 3 == 0:
            shutil.copyfile(existing, target)
        words = _restore(bed, target, *(["--overwrite"] if over else []))
        met = _kill(words, folder, moments, chooser, toll)
        if target.exists():
            digest = sha256_of(target)
            done = digest == bed.history.last.sha256
            assert done or (over and digest == bed.history.states[0].sha256), (
                f"{target} is neither old nor new"
            )
            toll.published += met and done
        again = ("--overwrite",) if target.exists() else ()
        point = chooser.choice(bed.numbers) if number % 2 else bed.last
        bed.must("restore", bed.chain, "--volume", VOLUME, "--point", str(point), "--to", target, *again)
        assert [path.name for path in folder.iterdir()] == ["target.raw"], list(folder.iterdir())
        bed.must_be(target, point)
        shutil.rmtree(folder)
    existing.unlink()
    bed.must_verify(bed.chain)
    return str(toll)


def killed_restore_to_device(bed: Bed, kills: int) -> str:
    """Restores to a block device with old data: what is left is a part, and restoring again mends it."""
    chooser, toll = random.Random(6), Toll()
    folder = bed.new_folder("device")
    file = folder / "device.raw"
    bed.restore(bed.chain, 0).replace(file)
    with loop_device(file) as device:
        begin = time.monotonic()
        bed.must("restore", bed.chain, "--volume", VOLUME, "--to", device)
        moments = Moments(0.0, time.monotonic() - begin)
        for number in toll.until(kills):
            _kill(_restore(bed, device), folder, moments, chooser, toll)
            point = bed.last if number % 2 == 0 else 0
            bed.must("restore", bed.chain, "--volume", VOLUME, "--point", str(point), "--to", device)
            run("blockdev", "--flushbufs", str(device))
            assert sha256_of(device) == bed.history.states[point].sha256, f"{device} is not state {point}"
    shutil.rmtree(folder)
    return str(toll)


# --- starting and killing


def _capture(bed: Bed, source: Path, folder: Path) -> list[str]:
    return ["capture", str(source), "--into", str(folder), "--volume", VOLUME, *bed.spanning]


def _consolidate(folder: Path, wanted: tuple[str, ...]) -> list[str]:
    return ["consolidate", str(folder), "--volume", VOLUME, *wanted]


def _squash(source: Path, folder: Path) -> list[str]:
    return ["squash", str(source), "--to", str(folder), "--factor", "1", "--depth", "1"]


def _restore(bed: Bed, target: Path, *more: str) -> list[str]:
    return ["restore", str(bed.chain), "--volume", VOLUME, "--to", str(target), *more]


def _undisturbed(bed: Bed, arguments: Callable[[Path], list[str]], names: list[str] | None) -> Moments:
    """Run a command to its end, and note when it begins to write."""
    folder = bed.new_folder("undisturbed") if names is None else bed.linked(bed.chain, names)
    begin = time.monotonic()
    writes_s = 0.0
    running = subprocess.Popen([PROGRAM, *arguments(folder)], stdout=subprocess.DEVNULL)
    while running.poll() is None:
        if not writes_s and partial_files(folder):
            writes_s = time.monotonic() - begin
        _wait(running, _GLANCE_S)
        assert time.monotonic() - begin < _LIMIT_S, f"{arguments(folder)} does not end"
    ends_s = time.monotonic() - begin
    assert running.returncode == 0, f"{arguments(folder)}: exit {running.returncode}"
    shutil.rmtree(folder)
    return Moments(writes_s, ends_s)


def _kill(arguments: list[str], folder: Path, moments: Moments, chooser: random.Random, toll: Toll) -> bool:
    """Start a command and kill it: one time in six while it starts, else counted from its first write.

    Returns:
        Whether it was still running.
    """
    from_start = moments.writes_s == 0.0 or chooser.random() < 1 / 6
    rest_s = moments.ends_s - moments.writes_s
    delay_s = chooser.uniform(0, moments.ends_s if from_start else rest_s)
    running = subprocess.Popen(
        [PROGRAM, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    while not from_start and running.poll() is None and not partial_files(folder):
        _wait(running, _GLANCE_S)
    begin = time.monotonic()
    _wait(running, delay_s)  # what is waited for is a random moment
    taken_s = time.monotonic() - begin
    running.send_signal(signal.SIGKILL)
    _, errors = running.communicate()
    assert running.returncode in (0, -signal.SIGKILL), f"{arguments}: exit {running.returncode}: {errors}"
    met = running.returncode != 0
    if not met:
        moments.ends_s = taken_s if from_start else moments.writes_s + taken_s
    toll.kills += met
    toll.missed += not met
    toll.partial += met and bool(partial_files(folder))
    return met


def _wait(running: subprocess.Popen[str], seconds: float) -> None:
    """Let time go by, or the command end."""
    try:
        running.wait(seconds)
    except subprocess.TimeoutExpired:
        return
