"""A letter as plain text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from datetime import tzinfo
from typing import Final

from ops.notify.letter import TITLES, Entry, FolderLine, Letter, LetterKind
from ops.words import age_words, moment_words, plain, size_words

ENTRIES_MAX: Final = 50
"""So many troubles, and so many folders, a letter names one by one."""

_WIDTH: Final = 78


def letter_text(letter: Letter, zone: tzinfo) -> str:
    """Write a letter as plain text.

    Args:
        letter: the letter.
        zone: whose time is shown.
    """
    return "\n".join(line.rstrip() for line in _lines(letter, zone)) + "\n"


def headline(letter: Letter) -> str:
    """Say in one sentence what the letter is about."""
    if letter.kind is LetterKind.TEST:
        return f"This is a test: {plain(letter.host)} can reach you."
    if letter.kind is LetterKind.SUMMARY:
        folders = f"{letter.folders_in_all:,} folder{'' if letter.folders_in_all == 1 else 's'}"
        troubles = f"{len(letter.opened):,} trouble{'' if len(letter.opened) == 1 else 's'}"
        state = troubles if letter.opened else "all is well"
        return f"{plain(letter.host)} on {letter.day}: {folders}, {state}."
    parts = []
    if letter.opened:
        parts.append(f"{len(letter.opened):,} new trouble{'' if len(letter.opened) == 1 else 's'}")
    if letter.cleared:
        parts.append(f"{len(letter.cleared):,} over")
    return f"{plain(letter.host)}: {', '.join(parts)}."


def closing(letter: Letter, zone: tzinfo) -> str:
    """Say where the letter comes from, and what to expect."""
    made = moment_words(letter.made_at, zone)
    promise = "" if letter.kind is not LetterKind.TROUBLE else " You are told once more when it is over."
    return f"rollforward on {plain(letter.host)}, {made}.{promise}"


def entry_times(entry: Entry, zone: tzinfo) -> str:
    """Say since when, and until when, a trouble was there."""
    since = f"since {moment_words(entry.since, zone)}"
    return since if entry.ended is None else f"{since}, over since {moment_words(entry.ended, zone)}"


def folder_facts(folder: FolderLine, letter: Letter) -> str:
    """Say what there is in a folder."""
    facts = [f"{folder.images:,} images", size_words(folder.stored_bytes)]
    if folder.newest_at is not None:
        facts.append(f"newest {age_words(letter.made_at - folder.newest_at)} old")
    return ", ".join(facts)


def folder_counts(folder: FolderLine) -> str:
    """Say what happened in a folder during the last day."""
    return ", ".join(f"{count:,} {word}" for word, count in folder.counts.items() if count) or "nothing new"


def free_words(folder: FolderLine) -> str:
    """Say how much is free on a folder's device; empty if unknown."""
    if folder.free_bytes is None or not folder.size_bytes:
        return ""
    percent = 100 * folder.free_bytes / folder.size_bytes
    return f"{size_words(folder.free_bytes)} free of {size_words(folder.size_bytes)} ({percent:.0f} %)"


def _lines(letter: Letter, zone: tzinfo) -> Iterator[str]:
    yield headline(letter)
    for title, entries in (("TROUBLE", letter.opened), ("OVER", letter.cleared)):
        if entries:
            yield ""
            yield title
        for entry in entries[:ENTRIES_MAX]:
            yield ""
            yield from _entry_lines(entry, zone)
        if len(entries) > ENTRIES_MAX:
            yield f"\n… and {len(entries) - ENTRIES_MAX:,} more: rollforward status"
    if letter.folders:
        yield "\nFOLDERS"
    for folder in letter.folders[:ENTRIES_MAX]:
        yield ""
        yield plain(folder.path)
        for words in (plain(folder.problem), folder_facts(folder, letter), free_words(folder)):
            if words:
                yield f"    {words}"
        yield f"    last day: {folder_counts(folder)}"
    if letter.folders_in_all > min(len(letter.folders), ENTRIES_MAX):
        yield f"\n… and {letter.folders_in_all - min(len(letter.folders), ENTRIES_MAX):,} more folders"
    yield ""
    yield closing(letter, zone)


def _entry_lines(entry: Entry, zone: tzinfo) -> Iterator[str]:
    yield f"* {TITLES[entry.kind]}: {plain(entry.subject or entry.place)}"
    if entry.subject:
        yield f"    in {plain(entry.place)}"
    for words in (entry.reason, entry.hint if entry.ended is None else ""):
        if words:
            yield textwrap.fill(
                plain(words), _WIDTH, initial_indent="    ", subsequent_indent="    ", break_long_words=False
            )
    yield f"    {entry_times(entry, zone)}"
