"""What is done with the files of a HeadStart disk: begun, brought further, finalized, removed."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from actors.headstart_view import DiskView, image_paths
from hsr.disks.form import DiskKind, Part, Stamp
from hsr.disks.shares import refuse_unmounted
from hsr.rolling.cursor_file import Phase, Place
from hsr.rolling.disk import Rolled, RollingDisk, Stopping
from hsr.wrapping.whole_disks import refuse_whole_disk, start_of_point
from hsr.wrapping.wrapping import Wrap, Wrapping, wrapping_for
from policies.errors import ConfigurationError, PasswordError, RestoreError
from policies.names import parse_image_name
from policies.points import Point
from storage.catalog.headstart_models import HeadStartJob, LocationKind
from storage.folder import look_at
from storage.pipeline import Progress
from storage.seals import open_metadata

if TYPE_CHECKING:
    from storage.credentials import CredentialSeal
    from storage.keys import ChainKey


def bring_to_goal(
    seal: CredentialSeal | None, view: DiskView, count: int, progress: Progress, stopping: Stopping
) -> Rolled:
    """Apply the first images of a disk's plan; begin the disk if it is not there.

    Args:
        seal: opens the job's password.
        view: the disk and its plan, its way claimed.
        count: so many images of it.
        progress: told how many stored bytes are done.
        stopping: asked whether to stop.

    Returns:
        Where the disk stands.

    Raises:
        RollforwardError: as `RollingDisk.begin`, `open` and `apply` do.

    Crash: the disk's cursor says what may be on it.
    """
    images = list(image_paths(view).values())[:count]
    key = key_for(seal, view.job, images)
    if view.standing is None or view.standing.phase is Phase.NEW:
        refuse_wrapped_disk(view, images, key)
    with opened_disk(view) as disk:
        return disk.apply(images, key=key, progress=progress, stopping=stopping)


def refuse_wrapped_disk(view: DiskView, images: Sequence[Path], key: ChainKey | None) -> None:
    """Make sure, before anything is built, that no disk is put into a partition.

    Args:
        view: the disk that is to be begun.
        images: the way from nothing to the point that it is to be built at.
        key: of an encrypted chain.

    Raises:
        ConfigurationError: the volume has partitions itself, and is to be wrapped.
        RollforwardError: an image cannot be used.
    """
    if Wrap(view.job.wrap) is not Wrap.NONE:
        refuse_whole_disk(start_of_point(images, key), view.disk.volume)


def opened_disk(view: DiskView) -> RollingDisk:
    """Open a disk, or begin it.

    Args:
        view: the disk; its chain is known.

    Raises:
        RollforwardError: as `RollingDisk.begin` and `open` do.

    Crash: no disk, or one that is blank.
    """
    if view.standing is not None:
        return RollingDisk.open(view.path, side_folder=view.side_folder)
    if view.chain is None:
        raise ConfigurationError("no chain to build from is there", path=view.folder.path)
    if view.side_folder is not None:
        raise ConfigurationError("was not taken", path=str(view.path), hint="Say --fresh to have it taken.")
    make_place(view)
    return RollingDisk.begin(
        view.path,
        DiskKind(view.job.disk_kind),
        place_of(view.job, largest_volume(view)),
        job_uid=bytes.fromhex(view.job.uid),
        chain_id=view.chain.chain_uid,
    )


def place_of(job: HeadStartJob, volume_bytes: int, *, disk_bytes: int | None = None) -> Place:
    """Tell where a volume lies on its disk.

    Args:
        job: says what is put around it.
        volume_bytes: the largest size that it is known to have.
        disk_bytes: size of the disk; None for just what it takes.

    Raises:
        ConfigurationError: the table around it cannot hold so much, or the disk does not.
    """
    wrapping = wrapping_for(Wrap(job.wrap), volume_bytes, disk_bytes=disk_bytes)
    return Place(wrapping.disk_bytes, wrapping.offset, volume_bytes, job.wrap)


def patches_of(view: DiskView, disk: RollingDisk, point: Point, key: ChainKey | None) -> list[Part]:
    """Say what is to stand on a disk round its volume, and in it where it must say where it lies.

    Args:
        view: the disk.
        disk: the same, open; it stands at the point.
        point: the point.
        key: of an encrypted chain: what its images say of themselves is encrypted, too.

    Returns:
        Offsets on the disk and bytes, ascending; nothing for a disk that is its volume.
    """
    place = disk.standing.place
    if place.wrap == Wrap.NONE:
        return []
    wrapping = Wrapping(Wrap(place.wrap), point.volume_bytes, place.offset_bytes, place.disk_bytes)
    stamp = Stamp(disk.standing.chain_id + point.id, point.time)
    return list(wrapping.parts(disk.read, _metadata(view, point, key), stamp))


def _metadata(view: DiskView, point: Point, key: ChainKey | None) -> Mapping[str, object]:
    """Read what the image that ends at a point, or one before it, says of the volume's partition."""
    known = [one for one in view.holdings if one.is_proven and one.span.end.number <= point.number]
    for one in sorted(known, key=lambda one: -one.span.end.number):
        name = parse_image_name(one.name)
        path = Path(view.folder.path) / one.name
        header = None if name is None else look_at(path, name).header
        if header is not None and (key is not None or not header.encrypted):
            return open_metadata(header, key, str(path)) if header.encrypted and key else header.metadata
    return {}


def largest_volume(view: DiskView) -> int:
    """Tell the largest size of the volume up to the newest point that is known."""
    sizes = [point.volume_bytes for one in view.holdings if one.is_usable for point in one.span.covers]
    return max(sizes)


def make_place(view: DiskView) -> None:
    """Make the folder that a disk, or what tells of a device, is to lie in, below a location that has to be there.

    Raises:
        RestoreError: the location is out of reach, or refuses.
    """
    location = Path(view.location.path)
    if view.location.kind is LocationKind.SMB:
        refuse_unmounted(location)
    home = (view.side_folder or view.path).parent
    try:
        home.relative_to(location)
        if not location.is_dir():
            raise RestoreError("is not there", path=str(location))
        home.mkdir(parents=True, exist_ok=True)
    except ValueError as error:
        raise ConfigurationError("does not lie in its location", path=str(view.path)) from error
    except OSError as error:
        raise RestoreError(error.strerror or str(error), path=str(home)) from error


def is_same_place(known: Path, path: Path) -> bool:
    """Tell whether two names are of one disk: of one file or device, whatever it is called, there or to be made."""
    if known == path or os.path.realpath(known) == os.path.realpath(path):
        return True
    try:
        one, other = known.stat(), path.stat()
    except OSError:
        return False
    are_devices = stat.S_ISBLK(one.st_mode) and stat.S_ISBLK(other.st_mode)
    return os.path.samestat(one, other) or (are_devices and one.st_rdev == other.st_rdev)


def key_for(seal: CredentialSeal | None, job: HeadStartJob, images: Sequence[Path]) -> ChainKey | None:
    """Return the key of the images, opened with the job's password; None if they are plain.

    Args:
        seal: opens what is sealed.
        job: the job.
        images: images of one chain.

    Raises:
        PasswordError: they are encrypted, and the password is wrong, or there is none.
        ConfigurationError: the stored password cannot be opened.
        FormatError: key slots were exchanged.
        StorageError: key slots cannot be read.
    """
    names = [(image, parse_image_name(image.name)) for image in images]
    found = [look_at(image, name).header for image, name in names if name is not None]
    encrypted = [header for header in found if header is not None and header.encrypted]
    if not encrypted:
        return None
    if job.password is None or seal is None:
        raise PasswordError(
            f"{images[0].name} is encrypted, and job {job.name!r} has no password",
            hint="rollforward hsr password",
        )
    from storage.key_area import key_file_path
    from storage.key_files import unlock

    first = next(name for _, name in names if name is not None)
    path = key_file_path(images[0].parent, first.volume, first.base)
    password = seal.open(job.password, password_place(job.uid)).password
    return unlock(path, encrypted, password, for_reading=True).key


def key_of(seal: CredentialSeal | None, view: DiskView) -> ChainKey | None:
    """Return the key of a disk's chain, opened with the job's password; None if it is plain.

    Args:
        seal: opens what is sealed.
        view: the disk.

    Raises:
        RollforwardError: as `key_for` does.
    """
    images = [Path(view.folder.path) / one.name for one in view.holdings if one.is_proven]
    return key_for(seal, view.job, images[:1])


def password_place(uid: str) -> str:
    """Name what a job's password is bound to when it is sealed."""
    return f"HeadStart job {uid}"
