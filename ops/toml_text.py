"""Writing TOML, and telling on which line of a TOML file something stands.

The standard library reads TOML; what is written here are the few kinds of values that settings have, with a comment
beside them where that helps.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from datetime import time
from typing import Final

_SHORT: Final = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r", '"': '\\"', "\\": "\\\\"}


def toml_value(value: bool | int | str | Sequence[str]) -> str:
    """Write a value.

    Args:
        value: true or false, a whole number, text that is Unicode throughout, or a list of such texts.

    Raises:
        ValueError: the text holds what no TOML file can: half of a surrogate pair.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, str):
        return f"[{', '.join(toml_value(one) for one in value)}]"
    value.encode()  # TOML is UTF-8: what cannot be encoded cannot be written
    return '"' + "".join(_letter(letter) for letter in value) + '"'


def toml_line(key: str, value: bool | int | str | Sequence[str], comment: str = "") -> str:
    """Write a key and its value on one line.

    Args:
        key: letters, digits, dashes and low lines only.
        value: as of `toml_value`.
        comment: one line of words to stand beside it; none if empty.
    """
    line = f"{key} = {toml_value(value)}"
    return f"{line}  # {comment}" if comment else line


def line_of(text: str, path: Sequence[str | int]) -> int | None:
    """Tell on which line of a TOML file something is set.

    Args:
        text: the file, which is good TOML.
        path: keys and indices that lead to it, such as ("folder", 2, "retention", "keep_daily_days").

    Returns:
        The line, counted from 1; None if the file sets no such thing.
    """
    lines = [line + "\n" for line in text.split("\n")]
    low, high = 1, len(lines)  # in between lies the first line with which the file holds it
    if not _holds(tomllib.loads(text), path):
        return None
    while low < high:
        middle = (low + high) // 2
        stop = _next_whole(lines, middle)
        if stop is not None and _holds(tomllib.loads("".join(lines[:stop])), path):
            high = middle
        else:
            low = middle + 1
    return low


def _next_whole(lines: Sequence[str], count: int) -> int | None:
    """Find with how many lines, at least so many, a value that goes on over lines is whole; None if it never is."""
    for stop in range(count, len(lines) + 1):
        try:
            tomllib.loads("".join(lines[:stop]))
        except tomllib.TOMLDecodeError:
            continue
        return stop
    return None


def _holds(document: object, path: Sequence[str | int]) -> bool:
    here = document
    for step in path:
        if isinstance(step, int):
            if not isinstance(here, list) or step >= len(here):
                return False
            here = here[step]
        elif isinstance(here, Mapping) and step in here:
            here = here[step]
        else:
            return False
    return True


def _letter(letter: str) -> str:
    if letter in _SHORT:
        return _SHORT[letter]
    return letter if letter.isprintable() or letter == " " else _escaped(letter)


def _escaped(letter: str) -> str:
    code = ord(letter)
    return f"\\u{code:04X}" if code <= 0xFFFF else f"\\U{code:08X}"


def plain_value(value: object) -> object:
    """Give a value of a TOML file as settings take it: a time of day as text."""
    if isinstance(value, time) and value.second == value.microsecond == 0:
        return value.strftime("%H:%M")
    return value
