"""Playing the chains of a folder forward, and adding them up day by day."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import zip_longest

from ops.chain_views import ChainView
from ops.forecast_picture import Sheet, Tallies
from ops.show import size_words
from policies.calendar import day_of
from policies.forecast import Midnight, Pace, Tally, forecast, pace_of, tallies_of
from policies.names import Tier


@dataclass(frozen=True, slots=True)
class Played:
    """A chain, played forward.

    Attributes:
        view: the chain as it is.
        pace: how it is taken to go on.
        midnights: what there is after each midnight to come.
    """

    view: ChainView
    pace: Pace
    midnights: tuple[Midnight, ...]

    @property
    def pace_words(self) -> str:
        """Say how the chain is taken to go on."""
        if not self.pace.per_day:
            return "no incrementals come"
        count = "1 incremental" if self.pace.per_day == 1 else f"{self.pace.per_day:,} incrementals"
        return f"{count} a day of {size_words(self.pace.incremental_bytes)}"


@contextmanager
def days_bar(total: int, *, quiet: bool) -> Iterator[Callable[[], None]]:
    """Show on standard error how far the playing has come, while a person watches.

    Args:
        total: how many midnights are played in all.
        quiet: show nothing.

    Yields:
        What to call after each.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("playing midnights"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)


def play(view: ChainView, days: int, tell: Callable[[], None]) -> Played:
    """Play a chain forward.

    Args:
        view: the chain as it is.
        days: how many midnights.
        tell: called after each.
    """
    pace = pace_of(view.facts, view.now)
    midnights = []
    played = forecast(view.facts, view.policy, view.now, days, pace=pace, control=view.control)
    for midnight in played:
        midnights.append(midnight)
        tell()
    return Played(view, pace, tuple(midnights))


def sheets_of(played: Sequence[Played]) -> list[Sheet]:
    """Add chains up day by day; the first sheet is what there is now.

    Args:
        played: chains of one folder, at least one, each played as far.
    """
    first = played[0]
    today = day_of(first.view.now, first.view.facts.zone)
    now = [tallies_of(one for one in chain.view.facts.holdings if one.is_usable) for chain in played]
    sheets = [Sheet(today, _added(now))]
    for number, midnights in enumerate(zip_longest(*(chain.midnights for chain in played)), 1):
        day: date = today + timedelta(days=number)
        sheets.append(Sheet(day, _added([one.tallies for one in midnights if one is not None])))
    return sheets


def _added(several: Sequence[Tallies]) -> Tallies:
    found: dict[Tier | None, Tally] = {}
    for tallies in several:
        for tier, tally in tallies.items():
            known = found.get(tier, Tally())
            found[tier] = Tally(
                known.files + tally.files,
                known.stored_bytes + tally.stored_bytes,
                known.points + tally.points,
            )
    return found
