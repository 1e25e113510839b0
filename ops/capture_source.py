"""What `rollforward capture` reads: a file, a device, or an NBD export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from storage.nbd_uri import NbdUri


class SourceArgument(click.ParamType["Path | NbdUri"]):
    """A raw file or block device that exists, or the URI of an NBD export.

    Args:
        only_exports: whether a file is none.
    """

    name = "source"
    _path = click.Path(exists=True, dir_okay=False, path_type=Path)

    def __init__(self, *, only_exports: bool = False) -> None:
        self._only_exports = only_exports

    def convert(
        self, value: str | Path | NbdUri, param: click.Parameter | None, ctx: click.Context | None
    ) -> Path | NbdUri:
        """Tell one from the other."""
        from storage.nbd_uri import is_nbd_uri, parse_nbd_uri

        if isinstance(value, str) and (self._only_exports or is_nbd_uri(value)):
            return parse_nbd_uri(value)
        path: Path = self._path.convert(value, param, ctx)  # type: ignore[arg-type]
        return path
