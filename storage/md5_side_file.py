"""`.md5` side files: what they say, and which of them speak of an image.

ShadowProtect writes one beside each image, under the image's name with its ending exchanged:

    D_VOL-b001-i005.spi   the image
    D_VOL-b001-i005.md5   its side file, as ShadowProtect names it
    D_VOL-b001-i005.spi.md5   the same, as others name it (`md5sum NAME > NAME.md5`)

    line                  meaning
    HASH *NAME            MD5 of the file NAME in 32 hexadecimal digits, upper or lower case
    ;GUID;DATE            identity and day of the image; may be missing, and is passed over

Lines end in CR LF or LF. NAME may hold spaces, and stands in UTF-8 or in a code page of Windows; upper and lower case
count as equal in it, as they do on Windows. A spanned set has a line for each part, in one side file or in several.

Source: what such files are seen to hold, and the manual of md5sum (GNU coreutils); there is no specification.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from policies.errors import FormatError
from policies.names import PART_NUMBER_MAX, SideFile
from storage.stored_file import StoredFile

CONTENT_BYTES_MAX: Final = 16 << 20
"""No side file is larger: a line for each part of the largest set fits."""

LINES_MAX: Final = 2 * (PART_NUMBER_MAX + 1)
"""Nor has it more lines."""

_LINE: Final = re.compile(rb"([0-9a-fA-F]{32})(?:[ \t]+\*?(.*\S))?\s*", re.DOTALL)
_CODE_PAGES: Final = (
    *(f"cp{number}" for number in (1252, 1250, 1251, 1253, 1254, 1255, 1256, 1257, 1258, 874)),
    *(f"cp{number}" for number in (850, 437, 852, 858, 866, 737, 775, 857, 862, 932, 936, 949, 950)),
)
"""What Windows writes names in: its own code pages, then those of its console."""

_WORDS_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class Md5Line:
    """One line of a side file: the MD5 of a file.

    Attributes:
        digest: 16 bytes.
        name: the file's name as it stands there, without a folder; empty where the line gives none.
    """

    digest: bytes
    name: bytes

    @property
    def name_words(self) -> str:
        """The name, for people."""
        return self.name.decode(errors="backslashreplace")[:_WORDS_MAX]


@dataclass(frozen=True, slots=True)
class Said:
    """What a side file says of a file.

    Attributes:
        digest: 16 bytes, its MD5.
        by: name of the side file.
    """

    digest: bytes
    by: str


@dataclass(frozen=True, slots=True)
class Expected:
    """What side files say of an image.

    Attributes:
        names: names of the image's files, first part first.
        said: for each of these files, what is said of it; empty if nothing is.
        side_files: names of the side files that lie there, be they of use or not.
        doubts: why one of them is of no use, in words.
        missing: which side file speaks of a further part that is not there; None if none does.
    """

    names: tuple[str, ...]
    said: tuple[tuple[Said, ...], ...]
    side_files: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    missing: Said | None = None

    @property
    def is_silent(self) -> bool:
        """Whether nothing is said of any of the image's files."""
        return not any(self.said)

    @property
    def speaks_of_first_alone(self) -> bool:
        """Whether something is said of the first part, and nothing of the others: it may be meant for the whole set."""
        return len(self.said) > 1 and bool(self.said[0]) and not any(self.said[1:])

    @property
    def doubt(self) -> str | None:
        """Why the image cannot be verified by what is said, in words; None if it can."""
        if not self.side_files:
            return "no side file: cannot be verified"
        if self.is_silent:
            return f"{'; '.join(self.doubts)}: cannot be verified"
        unnamed = [name for name, said in zip(self.names, self.said, strict=True) if not said]
        if unnamed:
            more = f" and {len(unnamed) - 1} more" if len(unnamed) > 1 else ""
            return f"no side file names {unnamed[0]}{more}: cannot be verified"
        return None


def parse_md5(content: bytes) -> tuple[Md5Line, ...]:
    r"""Read the lines of a side file.

    Args:
        content: all of it, any bytes.

    Returns:
        One entry for each line that holds a digest; comments and empty lines are passed over.

    Raises:
        FormatError: a line is something else, or there is none.
    """
    found: list[Md5Line] = []
    lines = re.split(rb"\r\n|\n|\r", _in_utf8(content))
    if len(lines) > LINES_MAX:
        raise FormatError("has too many lines for a side file")
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith((b";", b"#")):
            continue
        match = _LINE.fullmatch(line.lstrip())
        if match is None:
            raise FormatError(f"line {number} is not of the form HASH *NAME")
        found.append(Md5Line(bytes.fromhex(match[1].decode()), _without_folder(match[2] or b"")))
    if not found:
        raise FormatError("holds no line of the form HASH *NAME")
    return tuple(found)


def side_file_names(name: str) -> tuple[str, ...]:
    """List the names that the side file of a file may have.

    Args:
        name: the file's name, such as "D_VOL-b001.spf".
    """
    stem = name.rpartition(".")[0] or name
    endings = (SideFile.DIGEST.value, SideFile.DIGEST.value.upper())
    return tuple(dict.fromkeys(f"{start}.{ending}" for start in (stem, name) for ending in endings))


def expect(files: Iterable[Path], following: Path | None = None) -> Expected:
    """Gather what side files say of an image.

    Args:
        files: the image's files, first part first, all in one folder.
        following: the part that would be next, which is not there.

    Raises:
        StorageError: a side file is there, but its medium fails.
    """
    paths = list(files)
    by_name: dict[bytes, list[Said]] = {}
    nameless: dict[str, Said] = {}
    there: list[str] = []
    doubts: list[str] = []
    for side_file in _side_files([*paths, following] if following else paths):
        there.append(side_file.name)
        try:
            read = parse_md5(_content(side_file))
        except FormatError as error:
            doubts.append(f"{side_file.name} {error.message}")
            continue
        doubts.append(f"{side_file.name} speaks of {read[0].name_words or 'a file without naming it'}")
        for line in read:
            by_name.setdefault(line.name.lower(), []).append(Said(line.digest, side_file.name))
        if len(read) == 1 and not read[0].name:
            nameless[side_file.name] = Said(read[0].digest, side_file.name)
    said = tuple(_said(path.name, by_name, nameless) for path in paths)
    missing = next(iter(_said(following.name, by_name, nameless)), None) if following else None
    return Expected(tuple(path.name for path in paths), said, tuple(there), tuple(doubts), missing)


def _said(
    name: str, by_name: Mapping[bytes, Sequence[Said]], nameless: Mapping[str, Said]
) -> tuple[Said, ...]:
    """Gather what is said of one file: by its name, or in a side file of its own that gives no name."""
    found = [said for spelling in _spellings(name) for said in by_name.get(spelling, ())]
    found += [nameless[own] for own in side_file_names(name) if own in nameless]
    return tuple(dict.fromkeys(found))


def _side_files(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the side files that lie beside some files, each once, whatever kind of files they are."""
    seen: set[tuple[int, int]] = set()
    for path in dict.fromkeys(file.with_name(name) for file in paths for name in side_file_names(file.name)):
        try:
            status = path.lstat()
        except OSError:
            continue
        identity = (status.st_dev, status.st_ino)  # .md5 and .MD5 are one file where case does not count
        if identity not in seen:
            seen.add(identity)
            yield path


def _content(path: Path) -> bytes:
    """Read a whole side file.

    Raises:
        FormatError: it is no regular file, or too large.
        StorageError: its medium fails.
    """
    file = StoredFile(path)
    try:
        if file.size_bytes > CONTENT_BYTES_MAX:
            raise FormatError("is too large for a side file")
        return bytes(file.read(0, file.size_bytes))
    finally:
        file.close()


def _in_utf8(content: bytes) -> bytes:
    """Take a byte order mark away, and the encoding that it stands for."""
    for mark, encoding in (
        (b"\xef\xbb\xbf", "utf-8"),
        (b"\xff\xfe", "utf-16-le"),
        (b"\xfe\xff", "utf-16-be"),
    ):
        if content.startswith(mark):
            return content[len(mark) :].decode(encoding, errors="replace").encode()
    return content


def _without_folder(name: bytes) -> bytes:
    return re.split(rb"[/\\]", name)[-1]


def _spellings(name: str) -> Iterator[bytes]:
    """Yield how a name may stand in a side file, its ASCII letters in lower case.

    Where a code page lacks a letter, Windows writes a question mark.
    """
    if name.isascii():
        yield name.encode().lower()
        return
    for form in ("NFC", "NFD"):
        for cased in {name, name.upper(), name.lower()}:
            text = unicodedata.normalize(form, cased)
            yield text.encode(errors="surrogateescape").lower()
            if form == "NFC":
                yield from {text.encode(page, errors="replace").lower() for page in _CODE_PAGES}
