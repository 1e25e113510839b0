"""What lies in a folder at this moment, before anything is opened."""

from __future__ import annotations

import os
from pathlib import Path

from policies.names import parse_image_name
from storage.catalog.images import FileStamp


def list_images(folder: Path) -> dict[str, FileStamp]:
    """List the image files of a folder, each volume's in the order of its points.

    Args:
        folder: the managed folder; its sub-folders are left alone.

    Returns:
        Stamps by file name.

    Raises:
        OSError: the folder cannot be read.
    """
    stamps = []
    with os.scandir(folder) as entries:
        for entry in entries:
            name = parse_image_name(entry.name)
            if name is None or name.part:
                continue
            try:
                if entry.is_file(follow_symlinks=False) or entry.is_symlink():
                    status = entry.stat(
                        follow_symlinks=False
                    )  # a link is no image: it is told so, not followed
                    stamps.append((name, FileStamp(entry.name, status.st_size, status.st_mtime_ns)))
            except FileNotFoundError:
                continue  # gone between listing and looking
    stamps.sort(key=lambda found: (found[0].volume, found[0].base, found[0].number or 0, found[1].name))
    return {stamp.name: stamp for _, stamp in stamps}
