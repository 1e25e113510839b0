"""The demonstration on a terminal: rows that fill in as the agent works."""

# ruff: noqa: D102 - `demo_screen.Screen` describes these methods

from __future__ import annotations

from contextlib import ExitStack
from typing import Final, Self

from rich.console import Console
from rich.live import Live
from rich.padding import Padding
from rich.panel import Panel
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from ops.chain_picture import draw_chain
from ops.demo_screen import Proof, Step
from ops.show import size_words
from storage.chain import Chain

_STATES: Final = {"captured": "cyan", "rolled up": "magenta", "landed": "yellow", "verified": "green"}


class LiveScreen:
    """Rows that fill in on a terminal: the day under way is redrawn, days gone by stay above it."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._title = ""
        self._steps: dict[str, Step] = {}
        self._states: dict[str, tuple[str, float]] = {}
        self._doing = ""
        self._standby = ""
        self._stack = ExitStack()
        self._live = Live(console=self._console, refresh_per_second=12, transient=True)
        self._spinner = Spinner("dots", style="cyan")

    def __enter__(self) -> Self:
        self._console.print(
            Panel.fit(
                "[bold]rollforward[/bold]  captures, verifies, rolls up, keeps a disk ready, restores",
                border_style="cyan",
                padding=(0, 2),
            )
        )
        self._stack.enter_context(self._live)
        return self

    def __exit__(self, *_: object) -> None:
        self._live.update("")
        self._stack.close()

    def say(self, words: str, *, aside: bool = False) -> None:
        self._doing = words
        self._redraw()

    def day(self, title: str) -> None:
        self._keep_day()
        self._title = title
        self._redraw()

    def image(self, step: Step) -> None:
        self._steps[step.name] = step
        self._states[step.name] = ("rolled up" if step.kind == "daily" else "captured", 0.0)
        self._redraw()

    def state(self, name: str, state: str, seconds: float) -> None:
        self._states[name] = (state, seconds)
        self._redraw()

    def rolled(self, text: str) -> None:
        self._standby = text
        self._redraw()

    def chain(self, chain: Chain) -> None:
        self._keep_day()
        self._standby = ""
        self._console.print()
        draw_chain(chain, None, self._console)
        self._console.print()

    def proof(self, proof: Proof) -> None:
        mark = "[green]✔[/green]" if proof.holds else "[red]✘[/red]"
        grid = Table.grid(padding=(0, 2))
        images = " → ".join(proof.images)
        grid.add_row("from", Text(images, "dim"))
        same = "[green]the same[/green]" if proof.found == proof.expected else f"[red]{proof.found}[/red]"
        grid.add_row("sha256", f"{proof.expected[:32]}…  {same}")
        grid.add_row("e2fsck", "[green]clean[/green]" if proof.clean else "[red]faults[/red]")
        self._console.print(f"{mark} [bold]{proof.title}[/bold]")
        self._console.print(Padding(grid, (0, 0, 1, 2)))

    def result(self, *, good: bool, words: str, seconds: float) -> None:
        self._live.update("")
        colour, verdict = ("green", "All proven") if good else ("red", "Failed")
        self._console.print(
            Panel.fit(
                f"[bold {colour}]{verdict}[/bold {colour}]  {words}  [dim]{seconds:.0f} s[/dim]",
                border_style=colour,
                padding=(0, 2),
            )
        )

    def _keep_day(self) -> None:
        if self._steps:
            self._console.print(Padding(self._table(), (1, 0, 0, 0)))
            if self._standby:
                self._console.print(Text(f"standby disk  {self._standby}", "blue"))
            self._steps.clear()

    def _redraw(self) -> None:
        grid = Table.grid()
        if self._steps:
            grid.add_row(Padding(self._table(), (1, 0, 0, 0)))
        if self._standby:
            grid.add_row(Text(f"standby disk  {self._standby}", "blue"))
        if self._doing:
            self._spinner.update(text=Text(self._doing, "dim"))
            grid.add_row(self._spinner)
        self._live.update(grid)

    def _table(self) -> Table:
        table = Table(
            title=self._title,
            title_justify="left",
            title_style="bold",
            box=None,
            padding=(0, 2, 0, 0),
            pad_edge=False,
        )
        for heading, width in (("time", 5), ("image", 24)):
            table.add_column(heading, header_style="dim", min_width=width, no_wrap=True)
        table.add_column("stored", header_style="dim", min_width=9, justify="right", no_wrap=True)
        table.add_column("state", header_style="dim", min_width=16, no_wrap=True)
        table.add_column("files", header_style="dim", overflow="ellipsis", no_wrap=True)
        for name, step in self._steps.items():
            state, seconds = self._states[name]
            mark = "●" if state == "verified" else "○"
            shown = Text(f"{mark} {state}" + (f" {seconds:.1f} s" if seconds else ""), _STATES.get(state, ""))
            style = "magenta" if step.kind == "daily" else ""
            table.add_row(
                f"{step.at:%H:%M}",
                Text(name, style),
                size_words(step.stored_bytes),
                shown,
                Text(step.about, "dim"),
            )
        return table
