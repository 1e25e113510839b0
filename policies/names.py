"""What the names of image files say, and how they are made.

    D_VOL-b001.spf                base image 1 of the volume D_VOL
    D_VOL-b001-i005.spi           incremental 5 on that base
    D_VOL-b001-d002.spi           differential 2 on that base; it leads to point 2
    D_VOL-b001-d002-i005.spi      incremental 5 on differential 2
    D_VOL-b001-i005-cd.spi        consolidation, daily (-cw weekly, -cm monthly, -cr rolling, or several)
    D_VOL-b001-i005.spf           synthetic full: base and spans merged, reaching point 5
    D_VOL-b001-i005.sp1 .sp2 …    further parts of the spanned set D_VOL-b001-i005.spi; D_VOL-b001.sp1 of a base
    D_VOL-b001-i005.spf.sp1 …     further parts of a synthetic full: without the .spf they would be incremental 5's

Numbers of incrementals and differentials are those of the points that they lead to, counted together.
Names only suggest what a file is: they never override its header. Each name that is accepted has one spelling
only, so that two files cannot claim to be the same image.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

from policies.errors import ConfigurationError

VOLUME_NAME_BYTES_MAX = 200
"""Longest volume name in UTF-8 bytes: leaves room for what follows, within the usual 255 of a file name."""

NUMBER_MAX = 999_999_999
"""Largest base, differential, incremental and part number that a name may hold."""

PART_NUMBER_MAX = 99_999
"""Largest number of a part that is written or read: so many files at most make one image, but for the first."""

Extension = Literal["spf", "spi"]


class Tier(StrEnum):
    """What a span was rolled up as."""

    INCREMENTAL = "incremental"
    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"
    ROLLING = "rolling"

    @property
    def suffix(self) -> str:
        """What a file name carries for it: "-cd", "-cw", "-cm", "-cr", or nothing for an incremental."""
        return _SUFFIXES[self]


class SideFile(StrEnum):
    """A file that lies beside images and belongs to them."""

    DIGEST = "md5"
    KEY = "spk"


_SUFFIXES = {
    Tier.INCREMENTAL: "",
    Tier.DAILY: "-cd",
    Tier.WEEKLY: "-cw",
    Tier.MONTHLY: "-cm",
    Tier.ROLLING: "-cr",
}
_ROLLED_UP = (Tier.DAILY, Tier.WEEKLY, Tier.MONTHLY, Tier.ROLLING)
_NAME_LENGTH_MAX = 400
_NUMBER = r"[0-9]{3}|[1-9][0-9]{3,8}"
_IMAGE_NAME = re.compile(
    rf"(?P<volume>.+)-b(?P<base>{_NUMBER})(?:-d(?P<differential>{_NUMBER}))?(?:-i(?P<number>{_NUMBER}))?"
    r"(?P<tiers>(?:-cd)?(?:-cw)?(?:-cm)?(?:-cr)?)(?:\.sp(?P<ending>[fi]))?(?:\.sp(?P<part>[1-9][0-9]{0,8}))?",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class ImageName:
    """What an image file's name says.

    Attributes:
        volume: name of the volume, such as "D_VOL".
        base: number of the base image that the chain begins with.
        differential: number of the point of the differential that it stands on, or is; None for neither.
        number: number of the point that it leads to; None for a base, or a differential itself.
        tiers: what it was rolled up as, finest first; empty for a base, an incremental and a synthetic full.
        extension: "spf" for a file that leads from nothing, "spi" for one that leads from a point.
        part: 0 for the first file of an image, N for the file that ends in .spN.
    """

    volume: str
    base: int
    differential: int | None = None
    number: int | None = None
    tiers: tuple[Tier, ...] = ()
    extension: Extension = "spi"
    part: int = 0

    def __post_init__(self) -> None:
        """Hold the name to one spelling.

        Raises:
            ConfigurationError: the volume's name cannot be part of a file name.
            ValueError: no file name says this.
        """
        check_volume_name(self.volume)
        numbers = (self.base, self.differential or 0, self.number or 0, self.part)
        if min(numbers) < 0 or max(numbers) > NUMBER_MAX:
            raise ValueError(f"a number of an image name is outside 0 to {NUMBER_MAX:,}: {numbers}")
        if self.tiers != tuple(tier for tier in _ROLLED_UP if tier in self.tiers):
            raise ValueError(f"tiers out of order, twice, or not of a consolidation: {self.tiers}")
        if self.tiers and (self.number is None or self.extension == "spf"):
            raise ValueError("only a span that leads to a numbered point is rolled up")
        is_bare = self.number is None and self.differential is None
        if is_bare and self.extension == "spi":
            raise ValueError("an incremental needs a number")
        if not is_bare and self.extension == "spf" and self.number is None:
            raise ValueError("a synthetic full needs a number")

    @property
    def point_number(self) -> int:
        """Number of the point that the image leads to; 0 for a base."""
        if self.number is not None:
            return self.number
        return self.differential or 0

    @property
    def is_differential(self) -> bool:
        """Whether it names a differential itself, not what stands on one."""
        return self.differential is not None and self.number is None

    @property
    def is_base(self) -> bool:
        """Whether it names the base that a chain begins with."""
        return self.differential is None and self.number is None

    @property
    def is_full(self) -> bool:
        """Whether it names a base or a synthetic full."""
        return self.extension == "spf"

    @property
    def is_consolidation(self) -> bool:
        """Whether it names a daily, weekly, monthly or rolling consolidation."""
        return bool(self.tiers)

    @property
    def is_synthetic_full(self) -> bool:
        """Whether it names a base that was merged from another and its spans."""
        return self.is_full and not (self.number is None and self.differential is None)

    def of_part(self, part: int) -> ImageName:
        """Name another file of the same image.

        Args:
            part: 0 for the first file, the one that the image is known by; N for the one that ends in .spN.

        Raises:
            ValueError: the number is out of range.
        """
        return replace(self, part=part)

    def filename(self) -> str:
        """Spell the file's name; the exact inverse of `parse_image_name`.

        Returns:
            The name, without a folder. Numbers have three digits, or more when they need them.
        """
        text = f"{self.volume}-b{self.base:03d}"
        if self.differential is not None:
            text += f"-d{self.differential:03d}"
        if self.number is not None:
            text += f"-i{self.number:03d}"
        text += "".join(tier.suffix for tier in self.tiers)
        if self.part == 0 or self.is_synthetic_full:
            text += f".{self.extension}"
        return f"{text}.sp{self.part}" if self.part else text


def parse_image_name(name: str) -> ImageName | None:
    """Read a file's name.

    Args:
        name: file name without a folder; any text.

    Returns:
        What it says, or None when it is not the name of an image.
    """
    if len(name) > _NAME_LENGTH_MAX:
        return None
    match = _IMAGE_NAME.fullmatch(name)
    if match is None:
        return None
    ending, part = match["ending"], match["part"]
    is_bare = match["differential"] is None and match["number"] is None
    try:
        found = ImageName(
            volume=match["volume"],
            base=int(match["base"]),
            differential=_optional_number(match["differential"]),
            number=_optional_number(match["number"]),
            tiers=tuple(tier for tier in _ROLLED_UP if tier.suffix in match["tiers"]),
            extension="spf" if ending == "f" or (ending is None and is_bare) else "spi",
            part=_optional_number(part) or 0,
        )
    except (ConfigurationError, ValueError):
        return None
    return found if found.filename() == name else None


def image_name(
    volume: str,
    base: int,
    number: int | None = None,
    tiers: Iterable[Tier] = (),
    full: bool = False,
    differential: int | None = None,
) -> ImageName:
    """Name an image that is about to be written.

    Args:
        volume: name of the volume.
        base: number of the chain's base.
        number: number of the point that the image leads to; None for the base itself, or a differential itself.
        tiers: what it is rolled up as, in any order; none for an incremental.
        full: whether it is a synthetic full.
        differential: number of the differential that it stands on, or is; None for neither.

    Returns:
        The name of the image's first file.

    Raises:
        ConfigurationError: the volume's name cannot be part of a file name.
        ValueError: no file name says this.
    """
    wanted = frozenset(tiers) - {Tier.INCREMENTAL}
    is_base = number is None and differential is None
    extension: Extension = "spf" if full or is_base else "spi"
    ordered = tuple(tier for tier in _ROLLED_UP if tier in wanted)
    return ImageName(volume, base, differential, number, ordered, extension)


def side_file_kind(name: str) -> SideFile | None:
    """Tell whether a file's name is that of a side file.

    Args:
        name: file name without a folder; any text.

    Returns:
        Its kind, or None.
    """
    stem, dot, extension = name.rpartition(".")
    if not dot or not stem or stem.startswith("."):
        return None
    return next((kind for kind in SideFile if kind.value == extension), None)


def check_volume_name(volume: str) -> None:
    """Refuse a volume name that cannot be part of a file name on every file system we write to.

    Args:
        volume: the name; any text.

    Raises:
        ConfigurationError: it is empty, longer than 200 bytes in UTF-8, begins with a dot, or holds a slash,
            a backslash, a control character or something that UTF-8 cannot say.
    """
    fault = _volume_fault(volume)
    if fault is not None:
        raise ConfigurationError(
            f"volume name {volume!r} {fault}",
            hint="Choose a short name of letters, digits, spaces, dashes or underscores.",
        )


def _volume_fault(volume: str) -> str | None:
    if not volume:
        return "is empty"
    if volume.startswith("."):
        return "begins with a dot"
    if any(unicodedata.category(letter) in {"Cc", "Cs", "Zl", "Zp"} for letter in volume):
        return "holds a control character, or one that UTF-8 cannot say"
    if "/" in volume or "\\" in volume:
        return "holds a slash"
    if len(volume.encode()) > VOLUME_NAME_BYTES_MAX:
        return f"is longer than {VOLUME_NAME_BYTES_MAX} bytes"
    return None


def _optional_number(digits: str | None) -> int | None:
    return None if digits is None else int(digits)
