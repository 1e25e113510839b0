"""The catalogue: what the agent knows of folders, images and work, rebuildable from the folders.

`database` opens it, `models` and `memory_models` declare its tables, `migrations` says how one layout follows another;
the other modules are its few operations, each on a session that the caller opened, so that one transaction records one
fact whole.
"""

from storage.catalog.database import Catalog, sqlite_url
from storage.catalog.memory_models import (
    Agent,
    LedgerLine,
    Notice,
    Reporter,
    SeenBefore,
    Sight,
    StoredClaim,
    StoredFreeze,
    StoredHold,
    Tombstone,
    TombstoneState,
    Waiver,
)
from storage.catalog.models import (
    Attempt,
    Chain,
    DaySummary,
    Event,
    EventKind,
    Folder,
    FolderTally,
    Image,
    ImageState,
    Lease,
    WorkKind,
)

__all__ = [
    "Catalog",
    "sqlite_url",
    "Agent",
    "Attempt",
    "Chain",
    "DaySummary",
    "Event",
    "EventKind",
    "Folder",
    "FolderTally",
    "Image",
    "ImageState",
    "Lease",
    "LedgerLine",
    "Notice",
    "Reporter",
    "SeenBefore",
    "Sight",
    "StoredClaim",
    "StoredFreeze",
    "StoredHold",
    "Tombstone",
    "TombstoneState",
    "Waiver",
    "WorkKind",
]
