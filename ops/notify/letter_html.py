"""A letter as HTML: one column, all styles inline, readable on a phone, in light and in dark.

Mail programs drop style sheets and scripts, and load no pictures; so there are none that matter. Where a program
darkens letters by itself, `color-scheme` and the rule for dark screens keep text and ground apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import tzinfo
from html import escape
from typing import Final

from ops.notify.letter import TITLES, Entry, FolderLine, Letter
from ops.notify.letter_text import (
    ENTRIES_MAX,
    closing,
    entry_times,
    folder_counts,
    folder_facts,
    free_words,
    headline,
)
from ops.words import plain

_FONT: Final = "font-family:-apple-system,'Segoe UI',Roboto,Helvetica,Arial,sans-serif"
_RED, _GREEN, _GREY, _BLUE = "#c0392b", "#2e8b57", "#6b7280", "#2f6fb0"
_LOW_PERCENT: Final = 10

_HEAD: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="supported-color-schemes" content="light dark">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
@media (prefers-color-scheme: dark) {{
  .ground {{ background: #15181c !important; }}
  .sheet {{ background: #1f242a !important; border-top-color: #343b44 !important; }}
  .sheet {{ border-right-color: #343b44 !important; border-bottom-color: #343b44 !important; }}
  .label {{ color: #f0a59b !important; }}
  .text {{ color: #e6e8eb !important; }}
  .faint {{ color: #a3abb5 !important; }}
  .rail {{ background: #343b44 !important; }}
}}
</style>
</head>
"""


def letter_html(letter: Letter, zone: tzinfo) -> str:
    """Write a letter as HTML.

    Args:
        letter: the letter; whatever names are in it, they are shown and never obeyed.
        zone: whose time is shown.
    """
    body = "\n".join(_body(letter, zone))
    return (
        _HEAD.format(title=_safe(letter.subject))
        + f'<body class="ground" style="margin:0;padding:0;background:#f3f4f6;{_FONT}">\n'
        + '<div class="ground" style="max-width:640px;margin:0 auto;padding:16px 12px;background:#f3f4f6">\n'
        + f"{body}\n</div>\n</body>\n</html>\n"
    )


def _body(letter: Letter, zone: tzinfo) -> Iterator[str]:
    colour = _RED if letter.opened else _GREEN
    yield (
        f'<h1 class="text" style="margin:4px 0 14px;padding-left:10px;border-left:5px solid {colour};'
        f'font-size:19px;line-height:1.35;font-weight:600;color:#1f2937">{_safe(headline(letter))}</h1>'
    )
    yield from _entries("Trouble", letter.opened, _RED, zone)
    yield from _entries("Over", letter.cleared, _GREEN, zone)
    if letter.folders:
        yield _title("Folders")
    for folder in letter.folders[:ENTRIES_MAX]:
        yield _folder(folder, letter)
    shown = min(len(letter.folders), ENTRIES_MAX)
    if letter.folders_in_all > shown:
        yield _small(f"… and {letter.folders_in_all - shown:,} more folders")
    yield _small(closing(letter, zone))


def _entries(title: str, entries: Sequence[Entry], colour: str, zone: tzinfo) -> Iterator[str]:
    if entries:
        yield _title(title)
    for entry in entries[:ENTRIES_MAX]:
        lines = [
            f'<div class="label" style="font-size:12px;font-weight:600;text-transform:uppercase;letter-spacing:.4px;'
            f'color:{colour}">{_safe(TITLES[entry.kind])}</div>',
            _strong(entry.subject or entry.place),
        ]
        if entry.subject:
            lines.append(_small(f"in {entry.place}", margin="2px 0 0"))
        lines.append(_line(entry.reason))
        if entry.hint and entry.ended is None:
            lines.append(_line(f"→ {entry.hint}"))
        lines.append(_small(entry_times(entry, zone), margin="6px 0 0"))
        yield _sheet(lines, colour)
    if len(entries) > ENTRIES_MAX:
        yield _small(f"… and {len(entries) - ENTRIES_MAX:,} more: rollforward status")


def _folder(folder: FolderLine, letter: Letter) -> str:
    lines = [_strong(folder.path)]
    if folder.problem:
        lines.append(_line(folder.problem))
    lines.append(_line(folder_facts(folder, letter)))
    free = free_words(folder)
    if free and folder.size_bytes and folder.free_bytes is not None:
        used = 100 * (folder.size_bytes - folder.free_bytes) / folder.size_bytes
        colour = _RED if used > 100 - _LOW_PERCENT else _BLUE
        lines.append(
            f'<div class="rail" style="height:8px;margin:8px 0 3px;border-radius:4px;background:#e1e4e8">'
            f'<div style="width:{used:.0f}%;height:8px;border-radius:4px;background:{colour}"></div></div>'
        )
        lines.append(_small(free, margin="0"))
    lines.append(_small(f"last day: {folder_counts(folder)}", margin="6px 0 0"))
    return _sheet(lines, _RED if folder.problem else _GREY)


def _sheet(lines: Sequence[str], colour: str) -> str:
    return (
        f'<div class="sheet" style="margin:0 0 10px;padding:12px 14px;background:#ffffff;border:1px solid #e1e4e8;'
        f'border-left:4px solid {colour};border-radius:6px">\n' + "\n".join(lines) + "\n</div>"
    )


def _title(words: str) -> str:
    return (
        f'<h2 class="faint" style="margin:18px 0 8px;font-size:14px;font-weight:600;color:{_GREY}">'
        f"{_safe(words)}</h2>"
    )


def _strong(words: str) -> str:
    return (
        '<div class="text" style="margin:2px 0 0;font-size:16px;line-height:1.35;font-weight:600;color:#1f2937;'
        f'overflow-wrap:anywhere">{_safe(words)}</div>'
    )


def _line(words: str) -> str:
    return (
        '<div class="text" style="margin:6px 0 0;font-size:15px;line-height:1.45;color:#1f2937;'
        f'overflow-wrap:anywhere">{_safe(words)}</div>'
    )


def _small(words: str, *, margin: str = "10px 2px") -> str:
    return (
        f'<div class="faint" style="margin:{margin};font-size:13px;line-height:1.4;color:{_GREY};'
        f'overflow-wrap:anywhere">{_safe(words)}</div>'
    )


def _safe(words: str) -> str:
    """Show what others wrote as nothing but text."""
    return escape(plain(words), quote=True)
