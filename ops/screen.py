"""The screen that tables and pictures are printed on."""

from __future__ import annotations

from typing import Final

from rich.console import Console

PLAIN_WIDTH: Final = 400
"""Columns where nobody watches: enough for any line, so that none is broken."""


def screen(*, picture: bool = False) -> Console:
    """Return standard output as a screen.

    Args:
        picture: whether what is printed fills the width: then it keeps to 80 columns where nobody watches.
    """
    console = Console(highlight=False, emoji=False, markup=False)
    if not console.is_terminal:
        console.width = 80 if picture else PLAIN_WIDTH
    return console
