"""Letters of every kind, with names in them that try to be more than names."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from ops.notify.letter import Entry, FolderLine, Letter, LetterKind
from policies.notices import TroubleKind

NOW = datetime(2026, 3, 2, 6, 0, tzinfo=UTC)
ZONE = ZoneInfo("Europe/Berlin")
EVIL = '<script>alert("x")</script>&\x1b[31m\u202egnp.exe'
GIB = 1 << 30


def entry(
    kind: TroubleKind,
    place: str,
    subject: str,
    reason: str,
    hint: str = "",
    *,
    ago: timedelta = timedelta(hours=2),
) -> Entry:
    return Entry(kind, place, subject, reason, hint, NOW - ago)


DAMAGED = entry(
    TroubleKind.DAMAGED,
    "/srv/images/Büro",
    "FILES-b001-i031.spi",
    "stored data is damaged at byte 1,295,104",
    "Fetch a good copy of this file from a replica. Until then points 31 to 35 cannot be restored.",
)
SILENT = entry(
    TroubleKind.INACTIVITY,
    "/srv/images/Büro",
    "MAIL",
    "no new image for 3 days",
    "Look whether the backup of this volume still runs.",
    ago=timedelta(days=3),
)
FULL = entry(
    TroubleKind.LOW_SPACE,
    "/srv/images",
    "",
    "61.4 GiB of 931.0 GiB (7 %) are free, less than the 10 % that are set",
    "Free some space, shorten retention, or move a folder to a larger device.",
)
FROZEN = entry(
    TroubleKind.FROZEN,
    "/srv/images/Büro",
    "FILES, chain b001",
    "incrementals do not compress any more since FILES-b001-i029.spi, as if contents were encrypted",
    "Look at the volume. If all is well: rollforward unfreeze.",
)
GONE = entry(TroubleKind.UNREACHABLE, "/mnt/nas/it's away", "", "no such folder", ago=timedelta(minutes=40))


def over(trouble: Entry) -> Entry:
    return Entry(
        trouble.kind,
        trouble.place,
        trouble.subject,
        trouble.reason,
        trouble.hint,
        trouble.since,
        NOW - timedelta(minutes=12),
    )


def letters() -> dict[str, Letter]:
    """Return a letter of each kind by name."""
    evil = entry(TroubleKind.FAILURE, f"/srv/{EVIL}", EVIL, f"cannot {EVIL}", EVIL)
    folders = (
        FolderLine(
            "/srv/images/Büro",
            1_204,
            83 * GIB,
            61 * GIB,
            931 * GIB,
            NOW - timedelta(minutes=9),
            {"landed": 96, "verified": 192, "rolled up": 2, "retired": 95},
        ),
        FolderLine(
            "/mnt/nas/it's away", 377, 21 * GIB, None, None, NOW - timedelta(days=3), {}, "no such folder"
        ),
        FolderLine("/srv/images/lab", 12, GIB, 700 * GIB, 931 * GIB, None, {"landed": 1}),
    )
    return {
        "failure": Letter(LetterKind.TROUBLE, "backup1", NOW, (DAMAGED, FROZEN, GONE)),
        "inactivity": Letter(LetterKind.TROUBLE, "backup1", NOW, (SILENT,)),
        "space": Letter(LetterKind.TROUBLE, "backup1", NOW, (FULL,)),
        "cleared": Letter(LetterKind.TROUBLE, "backup1", NOW, (), (over(DAMAGED), over(FULL))),
        "summary": Letter(
            LetterKind.SUMMARY, "backup1", NOW, (FULL, GONE), (), date(2026, 3, 2), folders, len(folders)
        ),
        "quiet": Letter(LetterKind.SUMMARY, "backup1", NOW, (), (), date(2026, 3, 2), folders[:1], 1),
        "test": Letter(LetterKind.TEST, "backup1", NOW),
        "evil": Letter(LetterKind.TROUBLE, f"host{EVIL}", NOW, (evil,), (over(evil),)),
        "storm": Letter(LetterKind.TROUBLE, "backup1", NOW, (DAMAGED,) * 400),
    }
