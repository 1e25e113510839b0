"""Disks that are rolled forward: building one from base and incrementals, and bringing one a point further."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import numpy as np

from bench.ground import Ground
from bench.qemu import Clusters, overlay_chain
from bench.report import Goal, Row
from bench.timing import Contender, fsync, take_turns
from hsr.disks.disk import open_disk
from hsr.disks.form import DiskKind
from hsr.disks.pieces import Pieces
from hsr.rolling.cursor_file import Place
from hsr.rolling.disk import RollingDisk
from storage import kernels
from storage.image import ImageReader
from storage.overlay import Overlay
from storage.replay import BlockReader
from tests.commands import run
from tests.torn_medium import contents_of

BUILD_AT_MOST: Final = 0.6
APPLY_AT_MOST: Final = 2.0
TIMES: Final = 10
"""How much larger the large disk is."""

_DRIVERS: Final = {DiskKind.VHD: "vpc", DiskKind.VMDK: "vmdk", DiskKind.VHDX: "vhdx"}
_JOB: Final = bytes(16)
_UNIT_BYTES: Final = 1 << 20
_NOTE: Final = (
    "Ours: read, check and decode the image, widen the cursor, write, sync content, map and cursor. The peer: "
    "the same runs of granules from memory into a raw file, os.pwrite, then fdatasync. What is overwritten lies in the "
    "page cache on both sides."
)


def compare(ground: Ground) -> list[Row]:
    """Measure building, and applying one incremental to a disk that is there."""
    rows = [_building(ground, kind, driver) for kind, driver in _DRIVERS.items()]
    rows += [
        _applying(ground, kind, times) for kind in (DiskKind.VHDX, DiskKind.VMDK) for times in (1, TIMES)
    ]
    return rows


def _begin(path: Path, kind: DiskKind, base: Path, times: int = 1) -> RollingDisk:
    with ImageReader(base) as image:
        header = image.header
    size = header.end.volume_bytes
    place = Place(size * times, 0, size)
    return RollingDisk.begin(path, kind, place, job_uid=_JOB, chain_id=header.chain_id)


def _building(ground: Ground, kind: DiskKind, driver: str) -> Row:
    folder = ground.new_folder(f"built-{kind}")
    ours, theirs = folder / "ours.img", folder / "qemu.img"
    last, images = ground.history.last, ground.chain
    tip = overlay_chain(ground, Clusters.ZSTD)

    def build(_round: int) -> None:
        with _begin(ours, kind, images[0]) as disk:
            disk.apply(images)
            disk.finalize(disk.cursor.points[0])

    def convert(_round: int) -> None:
        options = ("-o", "force_size=on") if driver == "vpc" else ()
        source, target = str(tip.tip), str(theirs)
        run("qemu-img", "convert", "-W", "-m", "16", "-f", "qcow2", "-O", driver, *options, source, target)
        fsync(theirs)

    def must_be(path: Path) -> None:
        run("qemu-img", "compare", "-f", driver, "-F", "raw", str(path), str(tip.last_state))

    names = f"build {kind} from base + {last.number}", f"qemu-img convert -W -m 16 to {driver}"
    contenders = [
        Contender(names[0], build, lambda _: ours.unlink(missing_ok=True), lambda: must_be(ours), images),
        Contender(
            names[1], convert, lambda _: theirs.unlink(missing_ok=True), lambda: must_be(theirs), tip.files
        ),
    ]
    timings = take_turns(contenders, ground.rounds, ground.report)
    return Row(names[0], timings[names[0]], timings[names[1]], Goal.SHARE_OF_TIME, BUILD_AT_MOST)


def _applying(ground: Ground, kind: DiskKind, times: int) -> Row:
    """Apply one incremental a round, the last ones of the chain; the peer writes the same granules."""
    folder = ground.new_folder(f"applied-{kind}-{times}")
    images, path, raw = ground.chain, folder / "ours.img", folder / "theirs.raw"
    first = len(images) - ground.rounds - 1
    if first < 1:
        raise ValueError(f"{ground.rounds} rounds need as many incrementals, and a warm-up")
    with _begin(path, kind, images[0], times) as disk:
        disk.apply(images[:first])
    if times > 1:
        _fill_beyond(path, times)
    ground.history.replay(raw).roll_to(first - 1)
    runs: list[tuple[int, bytes]] = []

    def apply(number: int) -> None:
        with RollingDisk.open(path) as disk:
            disk.apply([images[first + number]])

    def touch(number: int) -> None:
        with RollingDisk.open(path) as disk:
            for offset, content in _granules_of(images[first + number]):
                disk.read(offset, len(content))

    def load(number: int) -> None:
        runs[:] = _granules_of(images[first + number])
        with raw.open("rb", buffering=0) as file:
            for offset, content in runs:
                os.pread(file.fileno(), len(content), offset)

    def write(_round: int) -> None:
        fd = os.open(raw, os.O_WRONLY)
        try:
            for offset, content in runs:
                os.pwrite(fd, content, offset)
            os.fdatasync(fd)
        finally:
            os.close(fd)

    size = f", disk {times} times as large" if times > 1 else ""
    name, peer = f"apply one incremental to {kind}{size}", f"pwrite of its granules{size}"
    contenders = [
        Contender(name, apply, touch, inputs=images[first:]),
        Contender(peer, write, load),
    ]
    timings = take_turns(contenders, ground.rounds, ground.report)
    _must_be_alike(path, raw)
    return Row(name, timings[name], timings[peer], Goal.SHARE_OF_TIME, APPLY_AT_MOST, _NOTE)


def _fill_beyond(path: Path, times: int) -> None:
    """Put something into every block of a disk beyond its volume, so that all of them are in its map."""
    content = np.ones(512, np.uint8)
    with open_disk(path) as disk:
        offsets = np.arange(disk.size_bytes // times, disk.size_bytes - 512, _UNIT_BYTES // 16)
        count = len(offsets)
        for some in np.array_split(offsets, max(count >> 12, 1)):
            disk.write(
                Pieces(
                    content, np.zeros(len(some), np.int64), some, np.full(len(some), len(content), np.int64)
                )
            )
        disk.sync()


def _granules_of(image: Path) -> list[tuple[int, bytes]]:
    """Decode what applying an image writes: runs of granules, neighbours joined."""
    found: list[tuple[int, bytes]] = []
    with Overlay([image]) as overlay, closing(BlockReader(overlay).parcels(clears=False)) as parcels:
        for parcel in parcels:
            masks = parcel.seen_lo, parcel.seen_hi
            rows, firsts, lengths = kernels.granule_runs(*masks, overlay.granule_bytes)
            offsets = parcel.blocks[rows] * overlay.block_bytes + firsts
            starts = rows * overlay.block_bytes + firsts
            pieces = Pieces(parcel.plain.reshape(-1), starts, offsets, lengths)
            for offset, content in contents_of(pieces):
                if found and found[-1][0] + len(found[-1][1]) == offset:
                    offset, content = found[-1][0], found.pop()[1] + content
                found.append((offset, content))
    return found


def _must_be_alike(path: Path, raw: Path) -> None:
    """Check that both sides came to the same volume.

    Raises:
        AssertionError: they did not.
    """
    with RollingDisk.open(path) as disk:
        for offset, piece in _pieces_of(raw):
            if disk.read(offset, len(piece)) != piece:
                raise AssertionError(f"{path} is not {raw}: no figure can be taken from a wrong result")


def _pieces_of(path: Path) -> Iterator[tuple[int, bytes]]:
    offset = 0
    with path.open("rb") as file:
        while piece := file.read(4 << 20):
            yield offset, piece
            offset += len(piece)
