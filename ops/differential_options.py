"""`--differential` and `--of`: what a capture leads from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def differential_options(command: Command) -> Command:
    """Add --differential and --of to a command that captures."""
    of = click.option(
        "--of",
        type=click.IntRange(min=0),
        metavar="N",
        help="With --differential: since point N, in place of the base.",
    )
    flag = click.option("--differential", is_flag=True, help="Capture all that changed since the base.")
    return flag(of(command))


def differential_of(differential: bool, of: int | None) -> int | None:
    """Say what the options mean: number of the point that a differential leads from, None for an incremental.

    Raises:
        click.UsageError: `--of` without `--differential`.
    """
    if of is not None and not differential:
        raise click.UsageError("--of says what a differential leads from: give --differential too.")
    return (of or 0) if differential else None
