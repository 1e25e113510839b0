"""The options by which commands are told a point of a volume, and what is found by them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from ops.passwords import PasswordSource, key_of, password_option
from ops.time_type import TimeType as TimeType
from policies.points import Point
from storage.chain import Chain, load_chain

if TYPE_CHECKING:
    from storage.keys import ChainKey

_Command = TypeVar("_Command", bound=Callable[..., None])


@dataclass(frozen=True, slots=True)
class ChosenPoint:
    """A point, and the way to it.

    Attributes:
        chain: the images of the volume.
        point: the point.
        images: the images that lead to it, base first.
        key: the key of an encrypted chain.
    """

    chain: Chain
    point: Point
    images: tuple[Path, ...]
    key: ChainKey | None

    @property
    def words(self) -> str:
        """Say which point it is: number, volume and time."""
        when = self.point.time.astimezone().strftime("%Y-%m-%d %H:%M:%S")
        return f"point {self.point.number} of {self.chain.volume} ({when})"

    def fields(self) -> dict[str, object]:
        """Say which point it is, for `--json`."""
        return {
            "volume": self.chain.volume,
            "number": self.point.number,
            "point": self.point.id.hex(),
            "time": self.point.time.isoformat(),
            "volume_bytes": self.point.volume_bytes,
            "images": [image.name for image in self.images],
        }


def point_options(command: _Command) -> _Command:
    """Add FOLDER, --volume, --point, --at, --base, --without and --password-file to a command."""
    options = (
        click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path)),
        click.option("--volume", required=True, help="Name of the volume."),
        click.option(
            "--point", type=click.IntRange(min=0), help="Number of the point; the newest if not given."
        ),
        click.option(
            "--at",
            type=TimeType(),
            help="The newest point at or before this time (ISO 8601, local if no zone).",
        ),
        click.option(
            "--base", type=click.IntRange(min=1), help="Number of the base; the latest if not given."
        ),
        click.option(
            "--without",
            multiple=True,
            metavar="FILE",
            help="Do not use this image; may be given several times.",
        ),
        password_option,
    )
    for option in reversed(options):
        command = option(command)
    return command


def choose_point(
    folder: Path,
    volume: str,
    point: int | None,
    at: datetime | None,
    base: int | None,
    without: tuple[str, ...],
    password_file: Path | None,
) -> ChosenPoint:
    """Find what the options of `point_options` name, asking for a password where it takes one.

    Raises:
        ConfigurationError: there is no such chain or image.
        MissingPointError: there is no such point.
        FormatError: a bad image stands in the way.
        PasswordError: the password is wrong, or there is none.
        StorageError: the folder cannot be read.
    """
    if point is not None and at is not None:
        raise click.UsageError("Give --point or --at, not both.")
    chain = load_chain(folder, volume, base).without(without)
    chosen = _chosen(chain, point, at)
    return ChosenPoint(chain, chosen, chain.path_to(chosen), key_of(chain, PasswordSource(password_file)))


def _chosen(chain: Chain, number: int | None, time: datetime | None) -> Point:
    if number is not None:
        return chain.point(number)
    return chain.newest() if time is None else chain.point_at(time)
