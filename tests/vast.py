"""The chain of a volume of many terabytes, made without the volume: real images, whose frames repeat a few contents.

Index, tables, digests and headers are those that a capture of such a volume would write: a record for every block
of a base, and for every changed block of an incremental. Only the stored stream is short, since each frame is one
of a few that compress well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import zstandard

from policies.names import image_name
from policies.points import Point, PointId
from storage import layout
from storage.digests import frame_digest
from storage.header import ImageHeader
from storage.image import ImageReader, Records
from storage.writer import ImageWriter, Published

VOLUME: Final = "D_VAST"
TB: Final = 10**12
_CONTENTS: Final = 16
_AT_ONCE: Final = 1 << 16
_START: Final = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class VastChain:
    """A base and incrementals in a folder of their own.

    Attributes:
        volume_bytes: size of the volume.
        blocks: number of its blocks.
        paths: images, base first.
        records: index records of all images together.
    """

    volume_bytes: int
    blocks: int
    paths: tuple[Path, ...]
    records: int


def make_vast_chain(folder: Path, volume_bytes: int, *, incrementals: int, changed: float) -> VastChain:
    """Write the chain.

    Args:
        folder: an empty folder.
        volume_bytes: size of the volume; made up to whole blocks.
        incrementals: how many follow the base.
        changed: share of the blocks that each of them changes.
    """
    granule_bytes = layout.geometry_for(volume_bytes)
    blocks = -(-volume_bytes // (granule_bytes * layout.GRANULES_PER_BLOCK))
    volume_bytes = blocks * granule_bytes * layout.GRANULES_PER_BLOCK
    random = np.random.default_rng(7)
    frames = _Frames(granule_bytes)
    points = [_point(number, volume_bytes) for number in range(incrementals + 1)]
    made: list[Published] = []
    records = 0
    for point in points:
        before = points[point.number - 1] if point.number else None
        step = 1 if before is None else max(int(1 / changed), 1)
        made.append(
            _write(folder, granule_bytes, before, point, frames.of_blocks(_some(blocks, step, random)))
        )
        records += -(-blocks // step)
    return VastChain(volume_bytes, blocks, tuple(image.path for image in made), records)


def _point(number: int, volume_bytes: int) -> Point:
    identity = PointId(number.to_bytes(16, "little"))
    return Point(identity, number, _START + timedelta(minutes=15 * number), volume_bytes)


def _some(blocks: int, step: int, random: np.random.Generator) -> Iterator[npt.NDArray[np.int64]]:
    """Yield one block of each `step`, at random, in ascending order."""
    for first in range(0, blocks, _AT_ONCE * step):
        starts = np.arange(first, min(first + _AT_ONCE * step, blocks), step)
        yield np.minimum(starts + random.integers(0, step, len(starts)), blocks - 1)


def _write(
    folder: Path,
    granule_bytes: int,
    before: Point | None,
    point: Point,
    frames: Iterator[tuple[Records, npt.NDArray[np.uint8]]],
) -> Published:
    header = ImageHeader(
        chain_id=bytes(16),
        granule_bytes=granule_bytes,
        start=before,
        covers=(point,),
        capture_ids=(point.id,),
        metadata={"volume": VOLUME},
    )
    name = image_name(VOLUME, 1, None if before is None else point.number)
    with ImageWriter(folder / name.filename(), header, past_cache=True) as writer:
        for records, stored in frames:
            writer.append(records, stored.data)
        return writer.finish()


class _Frames:
    """A few frames, each a whole block of one content."""

    def __init__(self, granule_bytes: int) -> None:
        block_bytes = granule_bytes * layout.GRANULES_PER_BLOCK
        compressor = zstandard.ZstdCompressor(level=1)
        stored = [compressor.compress(bytes([number]) * block_bytes) for number in range(1, _CONTENTS + 1)]
        self._records = np.zeros(_CONTENTS, layout.RECORD)
        self._records["flags"] = layout.FRAME_ZSTD
        self._records["mask_lo"] = self._records["mask_hi"] = np.uint64(0xFFFFFFFFFFFFFFFF)
        self._records["length"] = [len(frame) for frame in stored]
        for at, frame in enumerate(stored):
            self._records["digest"][at] = np.frombuffer(frame_digest(frame), np.uint8)
        if len(set(map(len, stored))) != 1:
            raise AssertionError("frames of one content each ought to be of one length")
        self._stored = np.frombuffer(b"".join(stored), np.uint8).reshape(_CONTENTS, -1)

    def of_blocks(
        self, parts: Iterator[npt.NDArray[np.int64]]
    ) -> Iterator[tuple[Records, npt.NDArray[np.uint8]]]:
        for blocks in parts:
            chosen = (blocks * 7 + blocks // 5) % _CONTENTS
            records = self._records[chosen]
            records["block"] = blocks
            yield records, np.ascontiguousarray(self._stored[chosen]).reshape(-1)


def distinct_blocks(paths: Sequence[Path]) -> int:
    """Count the blocks that any of the images holds a frame of."""
    blocks: list[npt.NDArray[np.uint32]] = []
    for path in paths:
        with ImageReader(path) as image:
            blocks += [records["block"].copy() for records in image.iter_records()]
    return len(np.unique(np.concatenate(blocks)))
