"""Reads that wait, decoded together: what follows each other on the volume is one batch, and a long read is several."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from hsr.serving.readable import Readable
from hsr.serving.replies import Piece, Replies, Request
from policies.errors import RollforwardError

BATCH_BYTES: Final = 1 << 20
_READS_MAX: Final = 64


@dataclass(slots=True)
class Read:
    """A read that is being answered, in chunks.

    Attributes:
        request: what was asked for.
        at: up to where it is part of a batch, in bytes of the volume.
        open_parts: how many of its parts are not answered yet.
        failure: why one of them could not be, if so.
    """

    request: Request
    at: int
    open_parts: int = 0
    failure: RollforwardError | None = None

    @property
    def end(self) -> int:
        """Where it ends, in bytes of the volume."""
        return self.request.offset + self.request.size

    @property
    def is_long(self) -> bool:
        """Whether it takes more than one batch: its last chunk then holds nothing."""
        return self.request.size > BATCH_BYTES

    @property
    def is_answered(self) -> bool:
        """Whether nothing of it is left to be answered."""
        return self.at == self.end and not self.open_parts


@dataclass(frozen=True, slots=True)
class Part:
    """A read, or a part of a long one: offset and size in bytes of the volume."""

    read: Read
    offset: int
    size: int


def take_batch(waiting: deque[Read]) -> list[Part]:
    """Take reads that follow each other on the volume, at most BATCH_BYTES together.

    Args:
        waiting: reads in the order in which they came, at least one; what is taken whole is removed.

    Returns:
        At least one part, each one beginning where the one before it ends. Long reads are cut at multiples of
        BATCH_BYTES.
    """
    parts: list[Part] = []
    room = BATCH_BYTES
    while waiting and room and len(parts) < _READS_MAX:
        read = waiting[0]
        size = min(read.end - read.at, BATCH_BYTES - (read.at % BATCH_BYTES if read.is_long else 0))
        if parts and (read.at != parts[-1].offset + parts[-1].size or size > room):
            break
        parts.append(Part(read, read.at, size))
        room -= size
        read.at += size
        read.open_parts += 1
        if read.at < read.end:
            break
        waiting.popleft()
    return parts


def decode_batch(
    point: Readable, replies: Replies, parts: Sequence[Part], room: memoryview
) -> list[list[Piece] | RollforwardError]:
    """Decode a batch; to be called in a thread.

    Args:
        point: the volume.
        replies: writes chunks.
        parts: what `take_batch` gave.
        room: writable, as long as all parts together; the result refers to it.

    Returns:
        For each part its chunks, or why there are none.
    """
    start = parts[0].offset
    try:
        extents = list(_filled(point, start, room))
    except RollforwardError as error:
        if len(parts) == 1:
            return [error]
        answers: list[list[Piece] | RollforwardError] = []  # who asked for nothing damaged is not concerned
        for part in parts:
            at = part.offset - start
            answers += decode_batch(point, replies, [part], room[at : at + part.size])
        return answers
    return [_chunks(replies, part, extents, start, room) for part in parts]


def _filled(point: Readable, offset: int, room: memoryview) -> Iterator[tuple[int, int, bool]]:
    """Read all that is held; yield (start, stop, whether it is held) within the room."""
    at = 0
    while at < len(room):
        for length, is_filled in point.extents(offset + at, len(room) - at):
            if is_filled:
                point.read_into(offset + at, room[at : at + length])
            yield at, at + length, is_filled
            at += length


def _chunks(
    replies: Replies, part: Part, extents: Sequence[tuple[int, int, bool]], offset: int, room: memoryview
) -> list[Piece]:
    first, cookie = part.offset - offset, part.read.request.cookie
    end = first + part.size
    chunks: list[Piece] = []
    for start, stop, is_filled in extents:
        start, stop = max(start, first), min(stop, end)
        if start < stop:
            is_last = stop == end and not part.read.is_long
            size = stop - start
            if is_filled:
                chunks.append(replies.data_head(cookie, offset + start, size, is_last=is_last))
                chunks.append(room[start:stop])
            else:
                chunks.append(replies.hole(cookie, offset + start, size, is_last=is_last))
    return chunks
