"""Made-up files of the shape that ShadowProtect's have: its first bytes, then noise; `.md5` side files."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

GUID_LINE = ";{0D2F5A1C-9E3B-4C57-8A6E-2B7D41F0C913};2026/03/02"


def content_of(size_bytes: int = 5000, seed: int = 0, magic: bytes = b"SPVB") -> bytes:
    """Give the bytes of a foreign file."""
    return magic + random.Random(seed).randbytes(size_bytes - len(magic))


def side_file_of(
    *files: tuple[str, bytes],
    encoding: str = "utf-8",
    line_end: str = "\r\n",
    upper: bool = False,
    guid: bool = True,
) -> bytes:
    """Give the side file of some files: a line for each, then one with a GUID and a date."""
    digests = [(name, hashlib.md5(content).hexdigest()) for name, content in files]
    lines = [f"{digest.upper() if upper else digest} *{name}" for name, digest in digests]
    return "".join(line + line_end for line in [*lines, *([GUID_LINE] if guid else [])]).encode(encoding)


def put_foreign(folder: Path, name: str, content: bytes | None = None, *, side_file: bool = True) -> Path:
    """Write a foreign file, and a side file named as ShadowProtect does."""
    content = content_of(seed=len(name)) if content is None else content
    path = folder / name
    path.write_bytes(content)
    if side_file:
        path.with_suffix(".md5").write_bytes(side_file_of((name, content)))
    return path
