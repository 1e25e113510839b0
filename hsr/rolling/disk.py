"""A virtual disk that is kept rolled forward: built once, brought from point to point, finalized at one of them.

What may be on the disk is in its cursor, which is made wider, durably, before a span's first write, and closed after
its last one was synced. So a disk may be left at any moment, by a crash too, and the next `apply` goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from hsr.disks.disk import VirtualDisk, create_disk, open_disk
from hsr.disks.flat import content_path
from hsr.disks.form import DiskKind, Part, Stamp
from hsr.disks.forms import form_for
from hsr.disks.medium import LocalMedium, Medium, refusals
from hsr.disks.pieces import Pieces
from hsr.disks.side_files import SidePaths
from hsr.restore import check_path
from hsr.rolling.copying import DiskCopy
from hsr.rolling.cursor_file import (
    Phase,
    Place,
    Standing,
    read_cursor,
    remove_cursor,
    settle_cursor,
    write_cursor,
)
from hsr.rolling.lending import Child, lend
from hsr.rolling.removing import blank_of, refuse_taken, remove_disk, set_aside
from hsr.rolling.writing import VolumeWriter
from policies.cursor import Cursor
from policies.errors import (
    ConfigurationError,
    FormatError,
    GeometryError,
    MissingPointError,
    RestoreError,
)
from policies.points import Point
from storage.overlay import Overlay
from storage.parts import stored_bytes_of
from storage.pipeline import Progress, no_progress
from storage.replay import BlockReader

if TYPE_CHECKING:
    from storage.keys import ChainKey

CHECKPOINT_BYTES: Final = 4 << 30
"""While a disk is built, what was written is made to count after so many bytes."""

Stopping = Callable[[], bool]
"""Asked now and then; once it says yes, work ends as soon as it can."""

BUILD_ANEW: Final = "Have it built anew: that reads the chain from its base."


def never() -> bool:
    """Go on."""
    return False


def _silent() -> None:
    return


@dataclass(frozen=True, slots=True)
class Rolled:
    """What `RollingDisk.apply` did.

    Attributes:
        standing: where the disk stands.
        written_bytes: bytes that were written to it.
        is_stopped: whether it was asked to stop before all was done.
    """

    standing: Standing
    written_bytes: int
    is_stopped: bool


def read_standing(
    path: Path, *, side_folder: Path | None = None, medium: Medium | None = None
) -> Standing | None:
    """Say where a disk stands, without opening it: somebody else may be at work on it.

    Args:
        path: the disk.
        side_folder: where its side files are, if that was said when it was begun.
        medium: what does the work.

    Returns:
        What its cursor says; None if there is no cursor: no such disk, or one whose end was not to be kept.

    Raises:
        FormatError: the cursor is damaged.
        RestoreError: the medium refuses.
    """
    return read_cursor(medium or LocalMedium(), _side_paths(path, side_folder))


class RollingDisk:
    """A disk that is kept rolled forward, open, and nobody else's meanwhile. A context manager.

    Made by `begin` and `open`. After a RestoreError it has to be opened again.
    """

    def __init__(self, path: Path, paths: SidePaths, medium: Medium, disk: VirtualDisk, standing: Standing):
        self.path = path
        self._paths, self._medium, self._disk, self._standing = paths, medium, disk, standing
        self._is_torn = self._is_noted = False

    @classmethod
    def begin(
        cls,
        path: Path,
        kind: DiskKind,
        place: Place,
        *,
        job_uid: bytes,
        chain_id: bytes,
        side_folder: Path | None = None,
        medium: Medium | None = None,
    ) -> Self:
        """Begin a disk on which nothing is yet.

        Args:
            path: where it is to be: a name that nothing bears, in a folder that exists; or a block device.
            kind: what it is to be.
            place: where the volume lies on it; `Place.whole(volume_bytes)` without a wrap.
            job_uid: 16 bytes: the job that it belongs to.
            chain_id: 16 bytes: the chain whose points it is to hold.
            side_folder: where its side files go; a device needs one. Else `.rollforward-hsr` beside the disk.
            medium: what does the work.

        Raises:
            BusyError: somebody else works on it.
            ConfigurationError: the name is taken, or the kind cannot hold so much.
            RestoreError: the medium refuses.

        Crash: nothing, or a disk that `open` opens.
        """
        medium, paths = medium or LocalMedium(), _side_paths(path, side_folder, kind)
        form_for(path, kind, place.disk_bytes)
        if not place.is_sound:
            raise ConfigurationError("the volume does not fit on the disk", path=str(path))
        refuse_taken(medium, path, kind, paths)
        medium.make_folder(paths.folder)
        medium.sync_folder(paths.folder.parent)
        standing = Standing(kind, place, job_uid, chain_id)
        write_cursor(medium, paths, standing)
        content = create_disk(
            path, kind, place.disk_bytes, side_folder=side_folder, owner=job_uid, medium=medium
        )
        return cls(path, paths, medium, content, standing)

    @classmethod
    def open(cls, path: Path, *, side_folder: Path | None = None, medium: Medium | None = None) -> Self:
        """Go on with a disk that is not finalized.

        Args:
            path: the disk.
            side_folder: where its side files are, if that was said when it was begun.
            medium: what does the work.

        Raises:
            BusyError: somebody else works on it.
            ConfigurationError: it is finalized, or never was begun.
            FormatError: its cursor or its map is damaged: it has to be built anew.
            RestoreError: the medium refuses, or the disk's own file is gone.

        Crash: the disk as it was.
        """
        medium, paths = medium or LocalMedium(), _side_paths(path, side_folder)
        standing = read_cursor(medium, paths)
        if standing is None:
            raise ConfigurationError("is no disk that is rolled forward", path=str(path))
        if standing.phase is Phase.NEW:
            settle_cursor(medium, paths)  # before anything is made that only a cursor tells the meaning of
        disk = _open_content(path, side_folder, paths, medium, standing)
        try:
            standing = read_cursor(medium, paths)  # nobody changes it any more
            if standing is None:
                raise ConfigurationError("is no disk that is rolled forward", path=str(path))
            _check_disk(disk, standing, path)
            medium.sync_folder(
                paths.folder
            )  # what a killed one wrote last is in the cache, maybe, and nowhere else
            return cls(path, paths, medium, disk, standing)
        except BaseException:
            disk.close()
            raise

    @property
    def standing(self) -> Standing:
        """Where it stands."""
        return self._standing

    @property
    def cursor(self) -> Cursor:
        """The points whose values may be on it; blank while it is built."""
        return self._standing.cursor

    def apply(
        self,
        images: Sequence[Path],
        *,
        key: ChainKey | None = None,
        progress: Progress = no_progress,
        stopping: Stopping = never,
        checkpoint_bytes: int = CHECKPOINT_BYTES,
    ) -> Rolled:
        """Bring the disk to the point that images lead to.

        A blank disk is built along all of them at once: each byte is written once, and checkpoints keep what is done.
        A build that was interrupted goes on along any images that lead to the same point. Otherwise they are applied
        one after the other. Nothing is written that was not held against its digest before.

        Args:
            images: in the order of application, each usable at the end of the one before it: the first at the cursor
                (`policies.cursor.usable`), a base if that is blank. They were found good; of a spanned set, its first
                part.
            key: the key of an encrypted chain; None of a plain one.
            progress: told how many stored bytes are done, of all images.
            stopping: asked several times a second.
            checkpoint_bytes: bytes written between two checkpoints of a build.

        Returns:
            What was done; the cursor is closed at the end of the last image, unless it was stopped.

        Raises:
            ChainError: an image cannot be applied here; the disk is as it was.
            ConfigurationError: the disk is being finalized; or the volume outgrew it, and it has to be built anew.
            PasswordError: the chain is encrypted, and there is no key.
            FormatError: an image is damaged. The cursor stays wide: the same image, once repaired, or a wider one goes
                on from there.
            RestoreError: the disk's medium refuses; open it again, and apply again.
            StorageError: an image cannot be read.

        Crash: a wide cursor, or a build since its last checkpoint; applying again goes on.
        """
        self._refuse_finalizing()
        if not self.cursor.is_blank:
            return self._roll(images, key, progress, stopping)
        if not images:
            return Rolled(self._standing, 0, is_stopped=False)
        with Overlay(images) as overlay:
            return self._build(overlay, key, progress, _Pace(stopping, checkpoint_bytes))

    def _build(self, overlay: Overlay, key: ChainKey | None, progress: Progress, pace: _Pace) -> Rolled:
        """Build the end of an overlay from nothing, or go on with that."""
        check_path(overlay)
        self._check_images(overlay)
        goal, total_bytes = overlay.layers[-1].header.end, overlay.frames_bytes
        writer = VolumeWriter(self._disk, self._standing.place, overlay, BlockReader(overlay, key))
        self._begin_building(goal, writer)
        done_bytes = read_bytes = 0
        with closing(writer.write_all(self._standing.done_bytes)) as parcels:
            for parcel, done_bytes in parcels:
                read_bytes += parcel.stored_bytes
                progress(read_bytes, total_bytes)
                is_stopping = pace.stopping()
                if is_stopping or pace.is_due(writer.written_bytes):
                    self._disk.sync()
                    self._note(replace(self._standing, done_bytes=done_bytes, serial=self._disk.serial))
                if is_stopping:
                    return Rolled(self._standing, writer.written_bytes, is_stopped=True)
        self._close_cursor(Cursor.closed(goal))
        progress(total_bytes, total_bytes)
        return Rolled(self._standing, writer.written_bytes, is_stopped=False)

    def _begin_building(self, goal: Point, writer: VolumeWriter) -> None:
        """Say, durably, what is being built, and clear what an interrupted build left beyond its last checkpoint."""
        before = self._standing
        goes_on = before.goal is not None and before.goal.id == goal.id
        done_bytes = before.done_bytes if goes_on else 0
        self._note(replace(before, phase=Phase.BUILDING, goal=goal, done_bytes=done_bytes))
        if before.phase is not Phase.NEW and before.kind is not DiskKind.DEVICE:
            writer.zero_disk_from(done_bytes)

    def _roll(
        self, images: Sequence[Path], key: ChainKey | None, progress: Progress, stopping: Stopping
    ) -> Rolled:
        """Apply images one after the other."""
        sizes = [stored_bytes_of(image) for image in images]
        written_bytes = done_bytes = 0
        for image, size in zip(images, sizes, strict=True):
            with Overlay([image]) as overlay:
                told = _Share(progress, done_bytes, size, sum(sizes))
                rolled = self._apply_one(overlay, key, told, stopping)
            written_bytes += rolled.written_bytes
            done_bytes += size
            progress(done_bytes, sum(sizes))
            if rolled.is_stopped:
                return replace(rolled, written_bytes=written_bytes)
        return Rolled(self._standing, written_bytes, is_stopped=False)

    def _apply_one(self, overlay: Overlay, key: ChainKey | None, told: _Share, stopping: Stopping) -> Rolled:
        """Apply one image: widen, zero, write, sync, close."""
        self._check_images(overlay)
        layer = overlay.layers[0]
        span = layer.header.span(layer.path.name)
        if span.is_base:
            raise MissingPointError(
                "is a base, and this disk holds points already", path=str(layer.path), hint=BUILD_ANEW
            )
        if not span.ascends:
            raise FormatError("its points are not in order", path=str(layer.path))
        wide = self.cursor.widened(span)
        filled_bytes = max(point.volume_bytes for point in self.cursor.points)
        writer = VolumeWriter(self._disk, self._standing.place, overlay, BlockReader(overlay, key))
        with writer.decoding() as parcels:  # it begins now, beside the syncing of the cursor
            self._note(replace(self._standing, cursor=wide))
            writer.zero(span.zero_from_bytes, filled_bytes)  # beyond that it is zero at all of its points
            for parcel in parcels:
                writer.write_seen(parcel)
                told.add(parcel.stored_bytes)
                if stopping():
                    return Rolled(self._standing, writer.written_bytes, is_stopped=True)
        self._close_cursor(wide.after(span))
        return Rolled(self._standing, writer.written_bytes, is_stopped=False)

    def _close_cursor(self, cursor: Cursor) -> None:
        """Make what was written durable, and then say so."""
        self._disk.sync()
        self._note(
            replace(
                self._standing,
                phase=Phase.ROLLING,
                cursor=cursor,
                goal=None,
                done_bytes=0,
                serial=self._disk.serial,
            )
        )

    def _check_images(self, overlay: Overlay) -> None:
        """Make sure that images belong here, and that their end fits on the disk."""
        newest = overlay.layers[-1]
        if newest.header.chain_id != self._standing.chain_id:
            raise GeometryError("belongs to another chain than the disk", path=str(newest.path))
        if overlay.end_bytes > self._standing.place.room_bytes:
            raise ConfigurationError(
                "the volume has outgrown this disk",
                path=str(self.path),
                expected=f"at most {self._standing.place.room_bytes:,} bytes",
                actual=f"{overlay.end_bytes:,}",
                hint="Have a larger disk built: that reads the chain from its base.",
            )

    def start_over(self) -> None:
        """Forget what the disk holds, so that it can be built anew; its size and place stay.

        Raises:
            ConfigurationError: it is being finalized.
            RestoreError: the medium refuses.

        Crash: the disk as it was, or one that has to be built.
        """
        self._refuse_finalizing()
        self._note(blank_of(self._standing))

    def read(self, offset: int, size: int) -> bytes:
        """Read bytes of the volume, as they are on the disk; what was never written is zero.

        Args:
            offset: the first byte, within the volume's room.
            size: how many.

        Raises:
            RestoreError: the medium refuses.
        """
        if not 0 <= offset <= offset + size <= self._standing.place.room_bytes:
            raise ValueError("the range lies outside the volume's room")
        return self._disk.read(self._standing.place.offset_bytes + offset, size)

    def finalize(self, point: Point, *, patches: Sequence[Part] = (), keeps_end: bool = False) -> None:
        """Make it a disk that any program opens, and close it.

        Args:
            point: the point at which it stands exactly.
            patches: what is to stand on the disk around the volume, or in it, other than at the point: offsets on the
                disk and bytes, ascending. To go on after an interruption, the same as before.
            keeps_end: whether the cursor is to say from then on that the disk was finalized; else it is removed.

        Raises:
            ConfigurationError: it does not stand at the point, or not exactly.
            RestoreError: the medium refuses; open it again, and finalize it.

        Crash: no disk, or the whole disk; `finalize_at` goes on. Only that point can be had from then on.
        """
        self._begin_finalizing(point)
        if not self._disk.is_finalizing:
            for offset, content in patches:
                self._disk.write(Pieces.single(offset, content))
        self._disk.finalize(Stamp(self._standing.chain_id + point.id, point.time))
        _end_cursor(self._medium, self._paths, self._standing, keeps_end=keeps_end)

    def copy_at(
        self,
        point: Point,
        target: Path,
        *,
        patches: Sequence[Part] = (),
        progress: Progress = no_progress,
        stopping: Stopping = never,
        copying: Callable[[], None] = _silent,
    ) -> bool:
        """Make a finalized copy of the disk, and leave the disk as it is, to be rolled on.

        The copy shares its blocks with the disk where the file system can do that, and takes no time then. Else all
        that is not a hole is copied.

        Args:
            point: the point at which the disk stands exactly.
            target: where the copy is to be: a name that nothing bears.
            patches: as for `finalize`.
            progress: told how many bytes are copied, of how many.
            stopping: asked several times a second.
            copying: told before anything is copied because blocks cannot be shared.

        Returns:
            Whether the copy is there; otherwise it was asked to stop, and nothing is left.

        Raises:
            ConfigurationError: the disk does not stand at the point, or the name is taken, or it is a device.
            RestoreError: the medium refuses.

        Crash: the disk as it was; the whole copy has its name, or no disk has it, and the next `copy_at` makes it.
        """
        self._refuse_torn()
        standing = self._standing
        if standing.cursor.points != (point,) or standing.phase is not Phase.ROLLING:
            raise self._stands_elsewhere(point)
        if standing.kind is DiskKind.DEVICE:
            raise ConfigurationError(
                "is a device, which cannot be copied",
                path=str(self.path),
                hint="With --fresh the copy is built from the base, as a raw file.",
            )
        copy = DiskCopy(self._medium, self.path, self._paths, target, standing, copying)
        if not copy.make(progress, stopping):
            return False
        finalize_at(copy.path, point, patches=lambda _: patches, side_folder=copy.folder, medium=self._medium)
        copy.publish()
        return True

    def lend_at(self, point: Point, child: Child) -> None:
        """Make it, for a while, a disk that others read, under a child that is written to; and close it.

        Nothing is copied. It takes no more points until `hsr.rolling.lending.take_back` takes it back.

        Args:
            point: the point at which it stands exactly.
            child: what is to be made over it.

        Raises:
            ConfigurationError: it does not stand at the point, or is a device, or a name is taken.
            RestoreError: the medium refuses.

        Crash: no disk, or the whole disk; taking it back makes it what it was.
        """
        self._refuse_torn()
        standing = self._standing
        if standing.cursor.points != (point,) or standing.phase is not Phase.ROLLING:
            raise self._stands_elsewhere(point)
        if standing.kind is DiskKind.DEVICE:
            raise ConfigurationError("is a device, which cannot be lent", path=str(self.path))
        lend(self._medium, self.path, self._disk, standing, child, self._note)

    def _stands_elsewhere(self, point: Point) -> ConfigurationError:
        return ConfigurationError(
            f"does not stand at point {point.number}",
            path=str(self.path),
            hint="Roll it forward to that point first; an earlier one takes a disk built anew.",
        )

    def _begin_finalizing(self, point: Point) -> None:
        self._refuse_torn()
        standing = self._standing
        if standing.cursor.points != (point,) or standing.phase not in (Phase.ROLLING, Phase.FINALIZING):
            raise self._stands_elsewhere(point)
        self._note(replace(standing, phase=Phase.FINALIZING))

    def _refuse_finalizing(self) -> None:
        self._refuse_torn()
        if self._standing.phase is Phase.FINALIZING or self._disk.is_finalizing:
            raise ConfigurationError(
                "is being finalized, and takes no more points", path=str(self.path), hint="Finalize it."
            )

    def _refuse_torn(self) -> None:
        if self._is_torn:
            raise RestoreError("has to be opened again after what happened to it", path=str(self.path))

    def _note(self, standing: Standing) -> None:
        """Make durable where the disk stands; where that fails, nobody knows what its cursor says until it is read.

        What was read of it is written once more: one that was killed may have left it in the cache alone.
        """
        if standing != self._standing or not self._is_noted:
            self._refuse_torn()
            self._is_torn = True
            write_cursor(self._medium, self._paths, standing)
            self._standing, self._is_noted, self._is_torn = standing, True, False

    def close(self) -> None:
        """Close it; what was not synced may be lost, as the cursor says."""
        self._disk.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Pace:
    """How far a build may go on."""

    def __init__(self, stopping: Stopping, checkpoint_bytes: int) -> None:
        self.stopping = stopping
        self._checkpoint_bytes = checkpoint_bytes
        self._last_bytes = 0

    def is_due(self, written_bytes: int) -> bool:
        """Tell whether it is time for a checkpoint; if so, one is made."""
        is_due = written_bytes - self._last_bytes >= self._checkpoint_bytes
        if is_due:
            self._last_bytes = written_bytes
        return is_due


@dataclass(slots=True)
class _Share:
    """Progress through one of several images."""

    progress: Progress
    before_bytes: int
    most_bytes: int
    total_bytes: int
    done_bytes: int = 0

    def add(self, stored_bytes: int) -> None:
        self.done_bytes = min(self.done_bytes + stored_bytes, self.most_bytes)
        self.progress(self.before_bytes + self.done_bytes, self.total_bytes)


PatchesOf = Callable[[RollingDisk], Sequence[Part]]
"""Says what is to stand on an open disk other than at its point."""


def no_patches(_: RollingDisk) -> Sequence[Part]:
    """Let the disk stand as it is at its point."""
    return ()


def finalize_at(
    path: Path,
    point: Point,
    *,
    patches: PatchesOf = no_patches,
    keeps_end: bool = False,
    side_folder: Path | None = None,
    medium: Medium | None = None,
) -> None:
    """Finalize a disk, or go on with that, however far it had come; nothing is done if its cursor says that it was.

    Args:
        path: the disk.
        point: the point at which it stands exactly.
        patches: gives those of `RollingDisk.finalize`; asked whenever something is left to be done.
        keeps_end: as for `RollingDisk.finalize`.
        side_folder: where its side files are, if that was said when it was begun.
        medium: what does the work.

    Raises:
        BusyError: somebody else works on it.
        ConfigurationError: it does not stand at the point, or there is no such disk.
        FormatError: its cursor or its map is damaged.
        RestoreError: the medium refuses.

    Crash: no disk, or the whole disk; doing it again goes on.
    """
    medium = medium or LocalMedium()
    paths = _side_paths(path, side_folder)
    standing = read_cursor(medium, paths)
    if standing is not None and _is_over(standing, medium, paths):
        if standing.cursor.points != (point,):
            raise ConfigurationError("is finalized at another point", path=str(path))
        if standing.phase is not Phase.FINALIZED:
            for left in (paths.new_map, paths.edges):
                medium.remove(left)
            _end_cursor(medium, paths, standing, keeps_end=keeps_end)
        return
    with RollingDisk.open(path, side_folder=side_folder, medium=medium) as disk:
        disk.finalize(point, patches=patches(disk), keeps_end=keeps_end)


def _is_over(standing: Standing, medium: Medium, paths: SidePaths) -> bool:
    """Tell whether a disk is finalized: its map goes only after all of it is durable."""
    is_ending = standing.phase is Phase.FINALIZING and not medium.exists(paths.map)
    return is_ending or standing.phase is Phase.FINALIZED


def _end_cursor(medium: Medium, paths: SidePaths, standing: Standing, *, keeps_end: bool) -> None:
    """Say, durably, that a disk was finalized, which it is; or leave nothing beside it."""
    if keeps_end:
        write_cursor(medium, paths, replace(standing, phase=Phase.FINALIZED))
    else:
        remove_cursor(medium, paths)


def forget_end(path: Path, *, side_folder: Path | None = None, medium: Medium | None = None) -> None:
    """Remove what says that a disk was finalized; the disk stays as it is.

    Args:
        path: the disk.
        side_folder: where its side files are, if that was said when it was begun.
        medium: what does the work.

    Raises:
        ConfigurationError: it says something else.
        FormatError: the cursor is damaged.
        RestoreError: the medium refuses.

    Crash: it is there, or not.
    """
    medium = medium or LocalMedium()
    paths = _side_paths(path, side_folder)
    standing = read_cursor(medium, paths)
    if standing is not None and standing.phase is not Phase.FINALIZED:
        raise ConfigurationError("is no finalized disk", path=str(path))
    remove_cursor(medium, paths)


def set_damaged_aside(
    path: Path, kind: DiskKind, *, side_folder: Path | None = None, medium: Medium | None = None
) -> Path:
    """Move a disk whose cursor is damaged, and all that lies beside it, to a folder; see `removing.set_aside`.

    Raises:
        BusyError: somebody is at work on the disk.
        ConfigurationError: its cursor is sound; or nothing proves that the disk's own file is unfinished.
        RestoreError: the medium refuses.

    Crash: parts of it are moved; doing it again moves the rest to the same folder.
    """
    medium = medium or LocalMedium()
    paths = _side_paths(path, side_folder, kind)
    try:
        read_cursor(medium, paths)
    except FormatError:
        return set_aside(path, kind, paths, medium)
    raise ConfigurationError("has no damaged cursor", path=str(path))


def discard(path: Path, *, side_folder: Path | None = None, medium: Medium | None = None) -> None:
    """Remove a disk that is not finalized, and all that lies beside it; of a device, only that.

    Args:
        path: the disk.
        side_folder: where its side files are, if that was said when it was begun.
        medium: what does the work.

    Raises:
        ConfigurationError: it is finalized, or may be, or there is no such disk.
        FormatError: its cursor is damaged.
        RestoreError: the medium refuses.

    Crash: the disk, or parts of it; discarding again goes on.
    """
    medium = medium or LocalMedium()
    paths = _side_paths(path, side_folder)
    standing = read_cursor(medium, paths)
    if standing is None or standing.phase in (Phase.FINALIZING, Phase.FINALIZED):
        raise ConfigurationError("is no disk that can be discarded", path=str(path))
    if standing.loan is not None and medium.exists(content_path(path, standing.kind)):
        raise ConfigurationError(
            f"is lent to {standing.loan.child}",
            path=str(path),
            hint="Take it back first, with hsr resume; or move it away, if it is to be kept as it is.",
        )
    is_file = standing.kind is not DiskKind.DEVICE
    if standing.phase is Phase.NEW and is_file:  # it may not be there yet, and another one may have its name
        _open_content(path, side_folder, paths, medium, standing).close()
    lock = medium.open(paths.map) if medium.exists(paths.map) else None
    try:
        remove_disk(path, paths, medium, standing, lock)
    finally:
        if lock is not None:
            lock.close()


def _side_paths(path: Path, side_folder: Path | None, kind: DiskKind | None = None) -> SidePaths:
    with refusals(path):
        is_device = side_folder is None and (kind is DiskKind.DEVICE or path.is_block_device())
    if is_device:
        raise ConfigurationError("is a device, so its side files need a folder", path=str(path))
    return SidePaths(side_folder, path.name) if side_folder else SidePaths.beside(path)


def _open_content(
    path: Path, side_folder: Path | None, paths: SidePaths, medium: Medium, standing: Standing
) -> VirtualDisk:
    if _is_over(standing, medium, paths):
        raise ConfigurationError(
            "is finalized", path=str(path), hint="A finalized disk takes no more points."
        )
    if standing.loan is not None:
        raise ConfigurationError(
            f"is lent to {standing.loan.child}", path=str(path), hint="Take it back first: hsr resume."
        )
    if medium.exists(paths.map):
        return open_disk(path, serial=standing.serial, side_folder=side_folder, medium=medium)
    if (
        standing.phase is Phase.NEW and standing.kind is not DiskKind.DEVICE
    ):  # which is taken by a person only
        return create_disk(
            path, standing.kind, standing.place.disk_bytes, side_folder=side_folder, medium=medium
        )
    raise RestoreError("the map of this disk is gone", path=str(paths.map), hint=BUILD_ANEW)


def _check_disk(disk: VirtualDisk, standing: Standing, path: Path) -> None:
    """Make sure that map and cursor are of the same disk."""
    if disk.kind is not standing.kind or disk.size_bytes != standing.place.disk_bytes:
        raise FormatError("map and cursor are of different disks", path=str(path), hint=BUILD_ANEW)
    if disk.serial < standing.serial:
        raise FormatError("the map ends before the cursor does", path=str(path), hint=BUILD_ANEW)
