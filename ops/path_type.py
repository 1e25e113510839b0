"""A folder on the command line."""

from __future__ import annotations

from pathlib import Path

import click


class FolderType(click.ParamType[Path]):
    """A folder's path. Nothing at all is refused: an empty variable of a script would name where it stands."""

    name = "folder"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Turn words into a path, or say what is wrong with them."""
        if not str(value):
            self.fail("an empty path names no folder", param, ctx)
        return Path(str(value))
