"""The table of settings that commands print."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ops.setting_rows import SettingRow, value_words


def print_settings(rows: Iterable[SettingRow], console: Console, *, below: str) -> None:
    """Print settings, section by section.

    Args:
        rows: the settings.
        console: where to.
        below: what a setting falls back to, in a word, such as "agent".
    """
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    table.add_column("setting", no_wrap=True)
    table.add_column("value", no_wrap=True)
    table.add_column("meaning", overflow="fold")
    section = ""
    for row in rows:
        if row.field.section != section:
            section = row.field.section
            table.add_row(Text(section, "bold"), "", "")
        value = Text(value_words(row.value))
        meaning = Text(row.field.meaning, "dim")
        if row.is_set:
            value.stylize("bold yellow")
            meaning = Text(f"set here; {below}: {value_words(row.below)}. ", "yellow") + meaning
        table.add_row(f"  {row.field.name}", value, meaning)
    console.print(table)


def setting_fields(row: SettingRow) -> dict[str, object]:
    """Gather what `--json` says of a setting."""
    return {
        "setting": row.field.key,
        "value": row.value,
        "set": row.is_set,
        "otherwise": row.below,
        "allowed": row.field.allowed,
        "meaning": row.field.meaning,
    }
