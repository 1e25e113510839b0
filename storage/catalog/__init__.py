"""The catalogue: what the agent knows of folders, images and work, rebuildable from the folders.

`database` opens it, `models` declares its tables; the other modules are its few operations, each on a
session that the caller opened, so that one transaction records one fact whole.
"""

from storage.catalog.database import Catalog, sqlite_url
from storage.catalog.models import (
    Attempt,
    Chain,
    Event,
    EventKind,
    Folder,
    Image,
    ImageState,
    Lease,
    WorkKind,
)

__all__ = [
    "Catalog",
    "sqlite_url",
    "Attempt",
    "Chain",
    "Event",
    "EventKind",
    "Folder",
    "Image",
    "ImageState",
    "Lease",
    "WorkKind",
]
