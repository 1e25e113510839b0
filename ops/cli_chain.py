"""`rollforward chain`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from ops.show import assumed_gap_words, fork_words, gap_words, image_fields, plain, points_of, print_json
from policies.assuming import assumed_gaps
from policies.errors import RollforwardError
from policies.reach import forks, gaps
from storage.chain import Chain
from storage.folder import chains, scan_folder
from storage.ledger import read_ledger
from storage.ledger_entries import RestoreTestEntry

Tests = Mapping[str, RestoreTestEntry]
"""The last restore test of each point, by its identity."""

_ROWS = 60


@click.command(
    epilog="""\b
Examples:
  rollforward chain /backup
  rollforward chain /backup --volume DATA --all
  rollforward chain /backup --json
"""
)
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--volume", help="Only this volume.")
@click.option("--all", "every", is_flag=True, help=f"Every point, not just the newest {_ROWS}.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object a line: images, gaps, tests, forks."
)
def chain(folder: Path, volume: str | None, every: bool, as_json: bool) -> None:
    """Show the points in time that a folder's images lead to, and what stands in the way.

    A bar beside the points is one image: it begins below the point that it leads from and ends at the point that it
    leads to. This looks at headers only; `rollforward verify` proves the data.

    A point that a restore test of a HeadStart job looked at has a mark: good, unclear or bad.

    Files in ShadowProtect's own container are listed by their names, with the way that these suggest.
    """
    found = chains(scan_folder(folder, volume))
    tests = _tests(folder)
    if not found and not as_json:
        click.echo("No images there.")
    for (name, base), images in found.items():
        shown = Chain(folder, name, base, images)
        if as_json:
            _print_lines(shown, tests)
        else:
            from ops.chain_picture import draw_chain

            draw_chain(shown, None if every else _ROWS, tests=tests)


def _tests(folder: Path) -> Tests:
    """Return what restore tests have found of points, as the folder's ledger remembers it."""
    try:
        entries = read_ledger(folder).state.of(RestoreTestEntry)
    except RollforwardError as error:
        click.secho(f"What was tested is not known: {plain(error)}", fg="yellow", err=True)
        return {}
    return {entry.point: entry for entry in sorted(entries, key=lambda entry: entry.tested_at)}


def _print_lines(chain: Chain, tests: Tests) -> None:
    assumed = {span.name: span for span in chain.assumed_spans}
    for image in chain.images:
        status = "good" if image.usable else "foreign" if image.is_foreign else "bad"
        span = assumed.get(image.path.name)
        way = None if span is None else [span.start.number if span.start else None, span.end.number]
        own = {"foreign": image.is_foreign, "side_files": list(image.side_files), "assumed_way": way}
        print_json(
            image_fields(
                image.path,
                image.header,
                kind=image.kind,
                stored_bytes=image.stored_bytes,
                changed_bytes=image.plain_bytes,
                status=status,
                reason=image.problem,
                root=image.root,
                parts=image.parts,
            )
            | own
        )
    common: dict[str, object] = {"path": str(chain.folder), "volume": chain.volume}
    for gap in gaps(chain.spans):
        fields = {"kind": "gap", "number": gap.missing.number, "point": gap.missing.id.hex(), "status": "gap"}
        print_json(common | fields | {"reason": gap_words(gap), "waiting": list(gap.waiting)})
    for found in assumed_gaps(chain.assumed_spans):
        fields = {"kind": "assumed gap", "number": found.missing.number, "status": "gap"}
        print_json(common | fields | {"reason": assumed_gap_words(found), "waiting": list(found.waiting)})
    for entry in [tests[point.id.hex()] for point in points_of(chain.spans) if point.id.hex() in tests]:
        tested = {"kind": "restore test", "number": entry.number, "point": entry.point}
        told = {"status": entry.verdict, "tested_at": entry.tested_at.isoformat(), "seconds": entry.seconds}
        print_json(common | tested | told | {"reason": entry.words, "screenshot": entry.screenshot})
    for fork in forks(chain.spans):
        fields = {"kind": "fork", "number": fork.point.number, "point": fork.point.id.hex(), "status": "fork"}
        print_json(common | fields | {"reason": fork_words(fork)})
