"""What lies in a managed folder: image files, told by their headers; names only suggest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from policies.errors import ForeignContainerError, FormatError, RollforwardError, StorageError
from policies.names import ImageName, Tier, image_name, parse_image_name
from policies.points import Span
from storage import layout
from storage.foreign import HINT, PROBLEM
from storage.header import ImageHeader, read_header
from storage.key_area import key_file_bases, key_files_among
from storage.md5_side_file import side_file_names
from storage.part_check import problem_words, set_fault, told_at_opening
from storage.parts import following_parts, group_parts, part_numbers_beside, stored_bytes_of
from storage.stored_file import StoredFile
from storage.sweep import unpublished_parts


@dataclass(frozen=True, slots=True)
class FoundImage:
    """An image file of a folder.

    Attributes:
        path: where it is; of a spanned set, its first part.
        name: what its name says.
        stored_bytes: its size, all its parts together.
        header: its header; None if it cannot be read.
        root: its identity as the trailer gives it, unchecked; None if it has no trailer.
        plain_bytes: plain size of its granules, likewise.
        problem: why it is no good at first sight; None otherwise. Nothing here proves its stored data.
        parts: how many files it is in, as far as they are there.
        stands_out: whether its problem is that it is plain, though its volume is encrypted.
        trouble: the error of its medium, if that is why; the image itself may be good.
        is_foreign: whether it is in ShadowProtect's own container, which is why nothing but its name is known.
    """

    path: Path
    name: ImageName
    stored_bytes: int
    header: ImageHeader | None = None
    root: bytes | None = None
    plain_bytes: int = 0
    problem: str | None = None
    trouble: StorageError | None = None
    parts: int = 1
    stands_out: bool = False
    is_foreign: bool = False

    @property
    def side_files(self) -> tuple[str, ...]:
        """Names of the `.md5` side files that lie beside it now, whatever they say."""
        return tuple(name for name in side_file_names(self.path.name) if self.path.with_name(name).exists())

    @property
    def usable(self) -> bool:
        """Whether its header is good and fits its name and its neighbours."""
        return self.header is not None and self.problem is None

    @property
    def kind(self) -> str:
        """What it is, in a word; see `kind_of`."""
        return kind_of(self.name, self.header)

    def span(self, *, verified: bool = False) -> Span:
        """Return the image as a span.

        Args:
            verified: whether it was read back and found good.

        Raises:
            ValueError: its header cannot be read.
        """
        if self.header is None:
            raise ValueError(f"{self.path.name} has no readable header")
        return self.header.span(self.path.name, stored_bytes=self.stored_bytes, verified=verified)

    def refusal(self, hint: str) -> RollforwardError:
        """Return the error to raise where an image that has a problem is needed: its medium's, or one that says why."""
        if self.is_foreign:
            return ForeignContainerError(self.problem or PROBLEM, path=str(self.path), hint=HINT)
        return self.trouble or FormatError(self.problem or "cannot be read", path=str(self.path), hint=hint)


def kind_of(name: ImageName | None, header: ImageHeader | None) -> str:
    """Say in a word what an image is.

    Args:
        name: what its name says, if it is the name of an image.
        header: its header, if it can be read.

    Returns:
        base, full, incremental, differential, consolidated, daily, weekly, monthly, rolling, or unknown.
    """
    if name is not None and name.is_consolidation:
        return name.tiers[-1].value
    if header is None:
        return _kind_by_name(name)
    if header.start is None:
        return "base" if header.end.number == 0 else "full"
    if len(header.covers) > 1:
        return "consolidated"
    return "differential" if name is not None and _is_differential(name, header) else Tier.INCREMENTAL.value


def _kind_by_name(name: ImageName | None) -> str:
    if name is None:
        return "unknown"
    if name.is_full:
        return "base"
    return "differential" if name.is_differential else Tier.INCREMENTAL.value


def _is_differential(name: ImageName, header: ImageHeader) -> bool:
    if name.differential is None or header.start is None:
        return False
    return name.is_differential or header.end.number > header.start.number + 1


def find_image(path: Path, *, among_all: bool = False) -> FoundImage | None:
    """Look at one image, and at the base of its name beside it.

    Args:
        path: the file; of a spanned set, its first part.
        among_all: look at all other images of the volume, too; in a large folder that takes a while.

    Returns:
        What was found; None if the file does not have the name of an image.
    """
    name = parse_image_name(path.name)
    if name is None:
        return None
    if among_all:
        there = [image for image in scan_folder(path.parent, name.volume) if image.path == path]
        return there[0] if there else look_at(path, name)
    found = look_at(path, name, part_numbers_beside(path))
    base = path.with_name(image_name(name.volume, name.base).filename())
    beside = [] if base == path or not base.exists() else [look_at(base, image_name(name.volume, name.base))]
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:  # the image itself may be readable all the same
        names = []
    return _check_neighbours([*beside, found], _encrypted_since([*beside, found], names))[-1]


def stray_images(folder: Path) -> tuple[Path, ...]:
    """List the files of a folder that end as images do, but do not have the name of one."""
    endings = (".spf", ".spi")
    return tuple(
        sorted(
            path
            for path in folder.iterdir()
            if path.suffix in endings and parse_image_name(path.name) is None
        )
    )


def scan_folder(folder: Path, volume: str | None = None) -> tuple[FoundImage, ...]:
    """List the images of a folder, by volume, base and number; sets whose first part is missing are among them.

    Args:
        folder: the managed folder; its sub-folders are left alone.
        volume: only images whose name gives this volume.

    Raises:
        StorageError: the folder cannot be read.
    """
    try:
        names = [entry.name for entry in folder.iterdir()]
    except OSError as error:
        raise StorageError(f"cannot be read: {error.strerror}", path=str(folder)) from error
    early = unpublished_parts(folder, names)
    found = [
        look_at(folder / name.filename(), name, numbers)
        for name, numbers in group_parts(name for name in names if name not in early).items()
        if volume in (None, name.volume)
    ]
    since = _encrypted_since(found, names)
    return tuple(image for chain in chains(found).values() for image in _check_neighbours(chain, since))


def look_at(path: Path, name: ImageName, numbers: Sequence[int] | None = None) -> FoundImage:
    """Look at the files of one image; whatever is wrong with them becomes its `problem`.

    Args:
        path: the image; of a spanned set, its first part, which may be missing.
        name: what its name says.
        numbers: numbers of all further parts that lie in the folder, ascending; looked up where it matters.
    """
    try:
        file = StoredFile(path)
    except RollforwardError as error:
        return FoundImage(
            path,
            name,
            _size_of_rest(path),
            problem=problem_words(error, path),
            trouble=_medium_error(error),
            parts=max(len(following_parts(path)), 1),
        )
    try:
        found = FoundImage(path, name, file.size_bytes, parts=file.part_count)
        return _look_inside(file, found, numbers)
    finally:
        file.close()


def _size_of_rest(path: Path) -> int:
    """Return the size of a set without its first part; 0 where there is nothing."""
    try:
        return stored_bytes_of(path) if following_parts(path) else 0
    except StorageError:
        return 0


def _look_inside(file: StoredFile, found: FoundImage, numbers: Sequence[int] | None) -> FoundImage:
    """Read the header and trailer of an image that can be opened."""
    try:
        header = read_header(file)
        packed = bytes(file.read(file.size_bytes - layout.TRAILER.itemsize, layout.TRAILER.itemsize))
        is_complete = packed[:8] == layout.TRAILER_MAGIC
        if numbers or file.part_count > 1 or not is_complete:
            fault = set_fault(file, header.digest, numbers)
            if fault is not None:
                return replace(found, header=header, problem=problem_words(fault, file.path))
    except ForeignContainerError as error:
        return replace(found, problem=error.message, is_foreign=True)
    except FormatError as error:
        return replace(found, problem=problem_words(told_at_opening(file, error), file.path))
    except RollforwardError as error:
        return replace(found, problem=problem_words(error, file.path), trouble=_medium_error(error))
    if not is_complete:
        return replace(found, header=header, problem="the file has no trailer: it is incomplete")
    trailer = np.frombuffer(packed, layout.TRAILER)[0]
    return replace(
        found,
        header=header,
        root=trailer["root"].tobytes(),
        plain_bytes=int(trailer["plain_bytes"]),
        problem=disagreement(found.name, header),
    )


def _medium_error(error: RollforwardError) -> StorageError | None:
    return error if isinstance(error, StorageError) else None


def disagreement(name: ImageName, header: ImageHeader) -> str | None:
    """Tell where a name and a header disagree; None if they do not. The header is right in any case."""
    if header.volume and header.volume != name.volume:
        return f"the header belongs to the volume {header.volume!r}, the name to {name.volume!r}"
    if header.end.number != name.point_number:
        return f"the header leads to point {header.end.number}, the name to {name.point_number}"
    if name.is_full != (header.start is None):
        return "the name ends in .spf and .spi, against what the header says of a base"
    return None


def chains(found: Iterable[FoundImage]) -> dict[tuple[str, int], tuple[FoundImage, ...]]:
    """Group images by the volume and base that their names give; base first, then by number and name."""
    groups: dict[tuple[str, int], list[FoundImage]] = {}
    for image in found:
        groups.setdefault((image.name.volume, image.name.base), []).append(image)
    return {key: tuple(sorted(groups[key], key=_place)) for key in sorted(groups)}


def _place(image: FoundImage) -> tuple[int, str]:
    return -1 if image.name.is_base else image.name.point_number, image.path.name


def _encrypted_since(found: Sequence[FoundImage], names: Iterable[str]) -> dict[str, tuple[int, str]]:
    """Say of each volume that is encrypted from which base on, and which file tells: an image, or a key file.

    Once encrypted, always: no capture makes a plain image after that. Whatever else is wrong with an encrypted image,
    it tells; else putting a plain base in the place of an encrypted one would do away with all others.
    """
    tells = [
        (image.name.volume, image.name.base, image.path.name)
        for image in found
        if image.header is not None and image.header.encrypted
    ]
    foreign = foreign_chains(found)
    tells += [
        (base.volume, base.base, name)
        for name, base in key_files_among(names).items()
        if (base.volume, base.base) not in foreign  # ShadowProtect's own key files tell of its own images
    ]
    return {volume: (base, name) for volume, base, name in sorted(tells, reverse=True)}


def foreign_chains(found: Iterable[FoundImage]) -> frozenset[tuple[str, int]]:
    """Say which chains, by volume and base, hold foreign images: a key file of that name is ShadowProtect's own."""
    return frozenset((image.name.volume, image.name.base) for image in found if image.is_foreign)


def bases_with_key(folder: Path, volume: str, found: Iterable[FoundImage]) -> tuple[int, ...]:
    """List the bases of a volume that have a key file of ours, whether their images are there and good or not.

    Args:
        folder: the managed folder.
        volume: name of the volume.
        found: its images.

    Raises:
        StorageError: the folder cannot be read.
    """
    foreign = foreign_chains(found)
    return tuple(base for base in key_file_bases(folder, volume) if (volume, base) not in foreign)


def _check_neighbours(
    images: Sequence[FoundImage], encrypted_since: Mapping[str, tuple[int, str]]
) -> Sequence[FoundImage]:
    """Mark images that are plain in an encrypted volume, or belong to another chain than their name puts them into."""
    images = [_check_plain(image, encrypted_since.get(image.name.volume)) for image in images]
    chain_id = chain_identity(images)
    return [
        replace(image, problem="belongs to another chain than the base of this name")
        if image.usable and image.header is not None and image.header.chain_id != chain_id
        else image
        for image in images
    ]


def _check_plain(image: FoundImage, encrypted_since: tuple[int, str] | None) -> FoundImage:
    if encrypted_since is None or not image.usable or image.header is None or image.header.encrypted:
        return image
    base, name = encrypted_since
    if image.name.base < base:
        return image
    problem = (
        f"is not encrypted, though its volume is, as {name} tells: was it exchanged, or added by somebody?"
    )
    return replace(image, problem=problem, stands_out=True)


def chain_identity(images: Sequence[FoundImage]) -> bytes | None:
    """Say which chain a group of images is: the base's, else the one that most of them share."""
    votes: dict[bytes, tuple[int, int]] = {}
    for image in images:
        if image.header is not None and image.usable:
            is_base, count = votes.get(image.header.chain_id, (0, 0))
            votes[image.header.chain_id] = (max(is_base, int(image.name.is_base)), count + 1)
    return max(votes, key=lambda chain_id: votes[chain_id]) if votes else None


def refuse_plain_in_encrypted(images: Iterable[FoundImage]) -> None:
    """Raise for the first plain image in an encrypted volume: somebody is at work there.

    Raises:
        FormatError: names the file, and what tells.
    """
    for image in images:
        if image.stands_out:
            raise image.refusal(
                "Move this file away, and fetch the genuine one from a replica if there was one."
            )


def refuse_unusable(images: Iterable[FoundImage]) -> None:
    """Raise for the first image with a problem.

    Raises:
        FormatError: names the file and its problem.
        StorageError: likewise, where the problem is its medium.
    """
    for image in images:
        if image.problem is not None:
            raise image.refusal("Fetch a good copy from a replica.")
