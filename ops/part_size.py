"""`--part-size`: how large the files of a new image may be."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

LEAST_BYTES: Final = 65_536
"""A smaller part would not hold the stored bytes of one block."""

_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_DECIMAL: Final = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SIZE: Final = re.compile(
    r"(?P<number>[0-9]{1,15}(?:\.[0-9]{1,6})?)\s*(?P<unit>[KMGT]?(?:i?B)?)", re.IGNORECASE
)

Command = TypeVar("Command", bound=Callable[..., Any])


def parse_part_size(text: str) -> int | None:
    """Read a size such as 4G, 650M, 1.5T, 4GiB, 700MB or 734003200.

    Args:
        text: a number, then perhaps K, M, G or T (powers of 1,024, as with iB), or KB, MB, GB or TB (of 1,000).

    Returns:
        The size in bytes; None if the text says none, or less than 64 KiB.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        return None
    unit = match["unit"].upper()
    factor = _DECIMAL.get(unit) or _UNITS.get(unit.removesuffix("B").removesuffix("I"))
    size_bytes = int(float(match["number"]) * factor) if factor else 0
    return size_bytes if size_bytes >= LEAST_BYTES else None


class _PartSize(click.ParamType[int]):
    """A size in bytes, with or without a unit."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        size_bytes = value if isinstance(value, int) else parse_part_size(str(value))
        if size_bytes is None:
            self.fail(f"{value!r} is no size of 64K or more; write one like 650M or 4G", param, ctx)
        return size_bytes


def part_size_option(command: Command) -> Command:
    """Add `--part-size` to a command that writes images."""
    return click.option(
        "--part-size",
        "part_bytes",
        type=_PartSize(),
        metavar="SIZE",
        help="Cut the image into files of SIZE (650M, 4G …) each: .sp1, .sp2 … follow the first.",
    )(command)


def parts_words(parts: int) -> str:
    """Say in how many files an image is: nothing for one, else " in 3 parts"."""
    return f" in {parts:,} parts" if parts > 1 else ""
