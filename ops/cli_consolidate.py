"""`rollforward consolidate`."""

from __future__ import annotations

from pathlib import Path

import click

from ops.part_size import part_size_option, parts_words
from ops.show import plain, print_json, progress_bar, published_fields, size_words
from policies.names import Tier
from storage.chain import load_chain

_TIERS = (Tier.DAILY, Tier.WEEKLY, Tier.MONTHLY)


@click.command(
    epilog="""\b
Examples:
  rollforward consolidate /backup --volume DATA --after 0 --upto 5 --tier daily
      writes DATA-b001-i005-cd.spi, which leads from the base's point to point 5
  rollforward consolidate /backup --volume DATA --upto 5 --full
      writes DATA-b001-i005.spf, a new base at point 5
  rollforward consolidate /backup --volume DATA --upto 5 --full --part-size 4095M
      the same in files that fit on FAT: DATA-b001-i005.spf, DATA-b001-i005.spf.sp1 ...
"""
)
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--volume", required=True, help="Name of the volume.")
@click.option(
    "--after", type=click.IntRange(min=0), help="The point that the result leads from; 0 is the base's."
)
@click.option("--upto", type=click.IntRange(min=0), required=True, help="The point that the result leads to.")
@click.option("--tier", type=click.Choice([tier.value for tier in _TIERS]), help="What it is rolled up as.")
@click.option(
    "--full", is_flag=True, help="Merge the base too: a synthetic full, in place of --after and --tier."
)
@click.option("--base", type=click.IntRange(min=1), help="Number of the base; the latest if not given.")
@part_size_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def consolidate(
    folder: Path,
    volume: str,
    after: int | None,
    upto: int,
    tier: str | None,
    full: bool,
    base: int | None,
    part_bytes: int | None,
    as_json: bool,
) -> None:
    """Roll the images after one point, up to another, into one image. The sources stay.

    Frames are copied as they are stored: nothing is decoded, no password is needed, and the same sources give the
    same bytes on any machine.
    """
    if full == (after is not None or tier is not None) or (after is None) != (tier is None):
        raise click.UsageError("Give --after and --tier, or --full.")
    from storage.consolidate import consolidate as merge

    chain = load_chain(folder, volume, base)
    start = None if after is None else chain.point(after)
    end = chain.point(upto)
    plan = chain.merge(start, end)
    target = chain.target(plan, None if tier is None else Tier(tier))
    with progress_bar(f"Consolidating {len(plan.sources)} images", quiet=as_json) as progress:
        sources = [folder / span.name for span in plan.sources]
        made = merge(sources, target, part_bytes=part_bytes, progress=progress)
    if as_json:
        fields = published_fields(made, tier or "full")
        print_json(fields | {"sources": [span.name for span in plan.sources]})
        return
    before = sum(span.stored_bytes for span in plan.sources)
    click.echo(
        f"{plain(made.path)}: {len(plan.sources)} images, {size_words(before)}, "
        f"became one of {size_words(made.stored_bytes)}{parts_words(made.parts)} "
        f"that covers {len(made.header.covers)} points"
    )
