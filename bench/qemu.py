"""qemu-img as a peer: the same states as a chain of qcow2 overlays, merged and restored by its own commands.

qemu writes every image itself: we only send it the changed bytes, over NBD.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import time
from enum import StrEnum
from pathlib import Path
from typing import Final

import numpy as np

from bench.ground import Ground
from bench.nbd import NbdWriter
from bench.timing import fsync
from tests.commands import run
from tests.history import Ranges

CLUSTER_BYTES: Final = 65_536
_START_LIMIT_S: Final = 30.0


class Clusters(StrEnum):
    """How the overlays store their clusters."""

    PLAIN = "uncompressed"
    ZSTD = "zstd"


class OverlayChain:
    """A base and one overlay a state, in qcow2.

    Args:
        ground: whose history is to be stored.
        clusters: how overlays store theirs; the base is always zstd-compressed.
    """

    def __init__(self, ground: Ground, clusters: Clusters) -> None:
        self.ground = ground
        self.folder = ground.new_folder(f"qcow2-{clusters}")
        self.base = self.folder / "base.qcow2"
        self.overlays: list[Path] = []
        replay = ground.history.replay(self.folder / "now.raw")
        ground.report(f"qemu-img writes the base, {clusters}")
        options = ("-c", "-o", "compression_type=zstd", "-W", "-m", "16")
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options, str(replay.path), str(self.base))
        for state in ground.history.states[1:]:
            ground.report(f"qemu writes overlay {state.number} of {ground.history.last.number}, {clusters}")
            replay.advance()
            below = self.overlays[-1] if self.overlays else self.base
            overlay = self.folder / f"overlay-{state.number:03d}.qcow2"
            _create_overlay(overlay, below)
            with NbdServer(overlay, clusters) as nbd:
                _send_changes(nbd, replay.path, ground.history.ranges(state.number), clusters)
            self.overlays.append(overlay)
        self.check(self.tip, replay.path)
        self.last_state = replay.path

    @property
    def tip(self) -> Path:
        """The newest overlay."""
        return self.overlays[-1]

    @property
    def files(self) -> list[Path]:
        """Base and overlays."""
        return [self.base, *self.overlays]

    def check(self, image: Path, raw: Path) -> None:
        """Have qemu-img compare an image with a raw file.

        Raises:
            RuntimeError: they differ.
        """
        run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", str(image), str(raw))


@functools.cache
def overlay_chain(ground: Ground, clusters: Clusters) -> OverlayChain:
    """Give the ground's chain of that kind, made on first use."""
    return OverlayChain(ground, clusters)


class RebaseMerge:
    """Merging by `qemu-img rebase`: a copy of the newest overlay takes in all that the ones below it hold."""

    def __init__(self, chain: OverlayChain) -> None:
        self._chain = chain
        self.merged = chain.folder / "rebased.qcow2"

    def prepare(self, _round: int) -> None:
        """Copy the newest overlay."""
        shutil.copyfile(self._chain.tip, self.merged)
        fsync(self.merged)

    def run(self, _round: int) -> None:
        """Rebase the copy onto the base."""
        run("qemu-img", "rebase", "-f", "qcow2", "-F", "qcow2", "-b", str(self._chain.base), str(self.merged))
        fsync(self.merged)

    def check(self) -> None:
        """Compare the result with the volume."""
        self._chain.check(self.merged, self._chain.last_state)


class CommitMerge:
    """Merging by `qemu-img commit`: the oldest overlay takes in, in place, all that the ones above it hold."""

    def __init__(self, chain: OverlayChain) -> None:
        self._chain = chain
        self.merged = chain.overlays[0]
        self._kept = chain.folder / "oldest-as-it-was.qcow2"
        shutil.copyfile(self.merged, self._kept)

    def prepare(self, _round: int) -> None:
        """Bring the oldest overlay back to what it was."""
        shutil.copyfile(self._kept, self.merged)
        fsync(self.merged)

    def run(self, _round: int) -> None:
        """Commit all newer overlays into it, and leave them as they are."""
        run("qemu-img", "commit", "-q", "-f", "qcow2", "-d", "-b", str(self.merged), str(self._chain.tip))
        fsync(self.merged)

    def check(self) -> None:
        """Compare the result with the volume."""
        self._chain.check(self.merged, self._chain.last_state)

    def put_back(self) -> None:
        """Leave the chain as it was found."""
        self._kept.replace(self.merged)


class NbdServer:
    """qemu-nbd on one overlay, for as long as the context lasts; entering gives a writer."""

    def __init__(self, overlay: Path, clusters: Clusters) -> None:
        self._socket = overlay.with_suffix(".sock")
        file = f"file.driver=file,file.filename={overlay}"
        if clusters is Clusters.ZSTD:
            options = f"driver=compress,file.driver=qcow2,file.{file.replace(',', ',file.')}"
        else:
            options = f"driver=qcow2,{file},detect-zeroes=unmap,discard=unmap"
        command = ["qemu-nbd", "--image-opts", "--socket", str(self._socket), "--cache", "writeback", options]
        self._server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self._writer: NbdWriter | None = None

    def __enter__(self) -> NbdWriter:
        deadline = time.monotonic() + _START_LIMIT_S
        while self._writer is None:
            try:
                self._writer = NbdWriter(self._socket)
            except (FileNotFoundError, ConnectionRefusedError):
                if self._server.poll() is not None or time.monotonic() > deadline:
                    self._server.kill()
                    raise RuntimeError(f"qemu-nbd: {self._server.communicate()[1]}") from None
                time.sleep(0.005)
        return self._writer.__enter__()

    def __exit__(self, *error: object) -> None:
        if self._writer is not None:
            self._writer.__exit__(None, None, None)
        if self._server.wait(_START_LIMIT_S) != 0:
            raise RuntimeError("qemu-nbd failed")
        if self._server.stderr is not None:
            self._server.stderr.close()


def _create_overlay(overlay: Path, below: Path) -> None:
    options = ("-o", "compression_type=zstd", "-F", "qcow2", "-b", str(below))
    run("qemu-img", "create", "-q", "-f", "qcow2", *options, str(overlay))


def _send_changes(nbd: NbdWriter, raw: Path, ranges: Ranges, clusters: Clusters) -> None:
    """Send what changed: the very bytes, or whole clusters where those are to be compressed."""
    if clusters is Clusters.ZSTD:
        touched = [
            np.arange(offset // CLUSTER_BYTES, (offset + length - 1) // CLUSTER_BYTES + 1)
            for offset, length in ranges.tolist()
        ]
        pieces = [(int(at) * CLUSTER_BYTES, CLUSTER_BYTES) for at in np.unique(np.concatenate(touched))]
    else:
        pieces = [
            (at, min(1 << 20, offset + length - at))
            for offset, length in ranges.tolist()
            for at in range(offset, offset + length, 1 << 20)
        ]
    with raw.open("rb", buffering=0) as file:
        for offset, length in pieces:
            nbd.write(offset, os.pread(file.fileno(), length, offset))
