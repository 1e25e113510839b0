"""Writing pieces to a real file: all of them, short and long, and clearly where the medium refuses."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest

from hsr.disks import medium_kernels
from hsr.disks.medium import DiskFile, LocalMedium
from hsr.disks.pieces import Pieces
from policies.errors import ConfigurationError, RestoreError

MIB = 1 << 20


@pytest.fixture
def file(tmp_path: Path) -> Iterator[DiskFile]:
    opened = LocalMedium().open(tmp_path / "file", create=True)
    yield opened
    opened.close()


def spread(lengths: list[int], gap: int) -> Pieces:
    """Make pieces of those lengths, each so far behind the one before it, in the file and in the buffer."""
    counts = np.array(lengths, np.int64)
    begins = np.cumsum(counts) - counts + gap * np.arange(len(counts))
    buffer = np.random.default_rng(1).integers(1, 256, int(begins[-1] + counts[-1]), np.uint8)
    return Pieces(buffer, begins, begins, counts)


@pytest.mark.parametrize("gap", [0, 1, 4096])
def test_all_pieces_are_written_where_they_belong(tmp_path: Path, file: DiskFile, gap: int):
    pieces = spread([1, 4096, 3 * MIB + 5, 512, 2 * MIB, 65536, 1], gap)
    file.write_pieces(pieces)
    file.sync()
    expected = np.zeros_like(pieces.buffer)
    for start, length in zip(pieces.starts, pieces.lengths, strict=True):
        expected[start : start + length] = pieces.buffer[start : start + length]
    assert (tmp_path / "file").read_bytes() == expected.tobytes()


def test_every_other_piece(tmp_path: Path, file: DiskFile):
    pieces = spread([512] * 1000, 512)
    chosen = pieces.where(np.arange(1000) % 2 == 1)
    file.write_pieces(chosen)
    content = (tmp_path / "file").read_bytes()
    for row in range(1000):
        start = int(pieces.starts[row])
        expected = pieces.buffer[start : start + 512].tobytes() if row % 2 else bytes(512)
        assert content[start : start + 512] == expected
    file.write_pieces(chosen.where(np.zeros(500, np.bool_)))  # nothing is nothing
    assert (tmp_path / "file").read_bytes() == content


@contextmanager
def files_end_at(size_bytes: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("lengths", [[65536] * 40, [MIB // 2, 3 * MIB]])
def test_what_does_not_fit_is_said_with_its_place(tmp_path: Path, file: DiskFile, lengths: list[int]):
    pieces = spread(lengths, 100)
    with files_end_at(MIB), pytest.raises(RestoreError, match="cannot be used") as caught:
        file.write_pieces(pieces)
    assert caught.value.path == str(tmp_path / "file")
    assert caught.value.offset is not None
    assert (tmp_path / "file").stat().st_size == MIB


def test_pieces_beyond_their_buffer_are_refused():
    buffer, one = np.zeros(10, np.uint8), np.ones(1, np.int64)
    for start, length, offset in ((5, 6, 0), (-1, 1, 0), (0, -1, 0), (0, 1, -1), (1 << 62, 1 << 62, 0)):
        with pytest.raises(ValueError, match="outside"):
            medium_kernels.write_pieces(
                medium_kernels.PWRITE, -1, buffer, one * start, one * offset, one * length, 0
            )


def test_an_error_that_only_closing_tells_closes_all_the_same(
    tmp_path: Path, file: DiskFile, monkeypatch: pytest.MonkeyPatch
):
    """NFS, CIFS and FUSE tell late writes so; the descriptor is free then, and may be another file's soon."""
    close: Callable[[int], None] = os.close
    closed: list[Path] = []

    def refuses(fd: int) -> None:
        closed.append(Path(f"/proc/self/fd/{fd}").readlink())
        close(fd)
        raise OSError(errno.EIO, "Input/output error")

    file.write_pieces(spread([2 * MIB], 0))
    file.sync()
    with monkeypatch.context() as patched:
        patched.setattr(os, "close", refuses)
        file.close()
        file.close()
    assert set(closed) == {tmp_path / "file"}
    assert len(closed) <= 2, "its descriptor, and one for writing past the page cache"
    LocalMedium().open(tmp_path / "file").close()


def test_a_name_is_given_and_never_taken_from_another_file(tmp_path: Path):
    hidden, medium = tmp_path / "hidden", LocalMedium()
    hidden.mkdir()
    source, target = hidden / "copy", tmp_path / "copy"
    source.write_bytes(b"copied")
    target.write_bytes(b"precious")
    with pytest.raises(ConfigurationError, match="exists already"):
        medium.publish(source, target)
    assert (source.read_bytes(), target.read_bytes()) == (b"copied", b"precious")
    target.unlink()
    medium.publish(source, target)
    assert target.read_bytes() == b"copied"
    medium.remove_folder(hidden)
    medium.remove_folder(hidden)
    assert list(tmp_path.iterdir()) == [target]
    with pytest.raises(RestoreError, match="No such file"):
        medium.publish(source, hidden)
    with pytest.raises(RestoreError, match="not empty"):
        medium.remove_folder(tmp_path)


def test_a_name_that_cannot_be_made_durable_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source, target = tmp_path / "hidden", tmp_path / "copy"
    source.write_bytes(b"copied")

    def refuses(_: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr("hsr.disks.medium.sync_folder", refuses)
        with pytest.raises(RestoreError, match="output error"):
            LocalMedium().publish(source, target)
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("is_done", [False, True])
def test_an_error_of_renaming_may_come_after_the_deed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_done: bool
):
    source, target = tmp_path / "hidden", tmp_path / "copy"
    source.write_bytes(b"copied")

    def refuses(old: Path, new: Path) -> None:
        if is_done:
            old.rename(new)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("hsr.disks.medium.rename_without_replacing", refuses)
    with nullcontext() if is_done else pytest.raises(RestoreError, match="output error"):
        LocalMedium().publish(source, target)
    assert list(tmp_path.iterdir()) == [target if is_done else source]
