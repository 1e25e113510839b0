"""`rollforward squash`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from ops.part_size import part_size_option, parts_words
from ops.passwords import FolderKeys, PasswordSource, password_option
from ops.show import image_fields, plain, print_json, progress_bar, published_fields, size_words
from policies.errors import ConfigurationError
from policies.names import Tier
from storage.chain import Chain, load_chain
from storage.folder import FoundImage, find_image
from storage.parts import first_part_of, part_bytes_of

if TYPE_CHECKING:
    from storage.amplification import Amplification
    from storage.squash import Squashed

_TIERS = (Tier.DAILY, Tier.WEEKLY, Tier.MONTHLY, Tier.ROLLING)

_NOTICE = (
    "its bytes and root are its own from now on: keep it only where no other place "
    "builds the same image from the same sources"
)


_EXAMPLES = """\b
Examples:
  rollforward squash /backup/DATA-b001-i720-cm.spi --to /backup/squashed
  rollforward squash /backup --volume DATA --number 720 --tier monthly --to /backup/squashed
  rollforward squash /backup --volume DATA --number 720 --full --to /backup/squashed --json

\b
To take the result into use, move the image that it was made from away, and the result into its place.
"""

_Command = TypeVar("_Command", bound=Callable[..., None])


def _image_options(command: _Command) -> _Command:
    """Add what names an image: a file, or a folder with --volume, --number, --tier, --full and --base."""
    tiers = click.Choice([tier.value for tier in _TIERS])
    options = (
        click.argument("place", type=click.Path(exists=True, path_type=Path), metavar="IMAGE|FOLDER"),
        click.option("--volume", help="With a folder: name of the volume."),
        click.option(
            "--number", type=click.IntRange(min=0), help="With a folder: the point that the image leads to."
        ),
        click.option("--tier", type=tiers, help="With a folder: what it was rolled up as."),
        click.option("--full", is_flag=True, help="With a folder: the synthetic full."),
        click.option(
            "--base", type=click.IntRange(min=1), help="With a folder: number of the base; else the latest."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _limit_options(command: _Command) -> _Command:
    """Add --factor and --depth."""
    above = "A block is coded anew that stores more than so many times what is seen of it,"
    for option in (
        click.option(
            "--depth",
            type=click.IntRange(min=1),
            default=16,
            show_default=True,
            help="or more than so many frames.",
        ),
        click.option("--factor", type=click.FloatRange(1, 16), default=2.0, show_default=True, help=above),
    ):
        command = option(command)
    return command


@click.command(epilog=_EXAMPLES)
@_image_options
@click.option(
    "--to",
    "target",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The folder that the result goes to, under the name of the image.",
)
@_limit_options
@password_option
@part_size_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def squash(
    place: Path,
    target: Path,
    volume: str | None,
    number: int | None,
    tier: str | None,
    full: bool,
    base: int | None,
    factor: float,
    depth: int,
    password_file: Path | None,
    part_bytes: int | None,
    as_json: bool,
) -> None:
    """Code those blocks of a consolidated image anew of which more is stored than is seen.

    The result leads where the image leads, and may be used wherever it could be. It is read back and compared with
    the image, which is not touched. It goes to another folder, since nothing ever takes a name that is in use.

    Rolling up gives the same bytes on every machine; squashing does not. So squash only what no other place builds
    as well. An encrypted volume takes the password.
    """
    from storage.amplification import SquashLimits, survey
    from storage.squash import squash as squash_image

    found = _found(place, volume, number, tier, full, base)
    if found.path.parent.resolve() == target.resolve():
        raise ConfigurationError(
            "is the image's own folder, where its name is in use",
            path=str(target),
            hint="Name another one with --to.",
        )
    limits = SquashLimits(factor, depth)
    before = survey(found.path, limits)
    if before.blocks_above == 0:
        _tell_unchanged(found, before, as_json)
        return
    key = FolderKeys(PasswordSource(password_file)).of_image(found.path)
    with progress_bar(f"Squashing {found.path.name}", quiet=as_json) as progress:
        done = squash_image(
            found.path,
            target / found.path.name,
            key=key,
            limits=limits,
            part_bytes=part_bytes or part_bytes_of([found.path]),
            progress=progress,
        )
    _tell(found, done, as_json)


def _found(
    place: Path, volume: str | None, number: int | None, tier: str | None, full: bool, base: int | None
) -> FoundImage:
    """Find the image that is meant: a file, or what a folder holds of a volume and number."""
    if place.is_dir():
        if volume is None or number is None or (full and tier is not None):
            raise click.UsageError(
                "With a folder, give --volume and --number; --tier or --full where it takes that."
            )
        return _in_folder(load_chain(place, volume, base), number, tier, full)
    if (volume, number, tier, base) != (None, None, None, None) or full:
        raise click.UsageError("Give an image, or a folder with --volume and --number.")
    found = find_image(first_part_of(place), among_all=True)
    if found is None:
        raise ConfigurationError("does not have the name of an image", path=str(place))
    if found.problem is not None:
        raise found.refusal("Fetch a good copy from a replica.")
    return found


def _in_folder(chain: Chain, number: int, tier: str | None, full: bool) -> FoundImage:
    leading = [
        image
        for image in chain.images
        if image.header is not None and image.header.end.number == number and len(image.header.covers) > 1
    ]
    if full:
        fitting = [image for image in leading if image.name.is_full]
    elif tier is not None:
        fitting = [image for image in leading if Tier(tier) in image.name.tiers]
    else:
        fitting = leading
    if len(fitting) != 1:
        names = ", ".join(image.path.name for image in fitting or leading)
        many = f"holds {len(fitting)} images" if fitting else "holds no such image"
        raise ConfigurationError(
            f"{many} of {chain.volume!r} that lead to point {number} and cover several",
            path=str(chain.folder),
            hint=f"There are: {names}. Name one of them, or its --tier." if names else None,
        )
    if fitting[0].problem is not None:
        raise fitting[0].refusal("Fetch a good copy from a replica.")
    return fitting[0]


def _tell_unchanged(found: FoundImage, before: Amplification, as_json: bool) -> None:
    if as_json:
        fields = image_fields(
            found.path,
            found.header,
            kind=found.kind,
            stored_bytes=found.stored_bytes,
            changed_bytes=found.plain_bytes,
            status="unchanged",
            reason="no block is above the limits",
            root=found.root,
            parts=found.parts,
        )
        print_json(fields | _figures(before, before, found.stored_bytes))
        return
    click.echo(
        f"{plain(found.path)}: nothing to do: no block is above the limits "
        f"({before.factor:.2f} times what is seen, at most {before.depth} frames)"
    )


def _figures(before: Amplification, after: Amplification, before_bytes: int) -> dict[str, object]:
    return {
        "before_bytes": before_bytes,
        "factor_before": round(before.factor, 3),
        "factor_after": round(after.factor, 3),
        "depth_before": before.depth,
        "depth_after": after.depth,
        "blocks": before.blocks,
        "blocks_squashed": before.blocks_above,
    }


def _tell(found: FoundImage, done: Squashed, as_json: bool) -> None:
    made, before, after = done.published, done.before, done.after
    if made is None:
        _tell_unchanged(found, before, as_json)
    elif as_json:
        more = {"status": "squashed", "source": str(found.path), "notice": _NOTICE}
        print_json(published_fields(made, found.kind) | _figures(before, after, done.before_bytes) | more)
    else:
        click.echo(
            f"{plain(made.path)}: {size_words(done.before_bytes)} became {size_words(made.stored_bytes)}"
            f"{parts_words(made.parts)}; {before.blocks_above:,} of {before.blocks:,} blocks coded anew, "
            f"{before.factor:.2f} → {after.factor:.2f} times what is seen; read back and compared"
        )
        click.echo(f"note: {_NOTICE}", err=True)
