"""What messages and recorded work are about, in words; and the work that a message asks for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from policies.names import image_name
from storage.catalog.attempts import Work
from storage.catalog.headstart_models import HeadStartDisk, HeadStartJob
from storage.catalog.images import stamp_of
from storage.catalog.models import Chain, Folder, Image, WorkKind

_IN_ONE_QUERY: Final = 500
"""SQLite takes so many values in one question, and more."""

Asked = tuple[str | None, int | None]
"""Name of a job, and the id of what it is about; None for what cannot be read."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What a message is about.

    Attributes:
        words: in words.
        is_gone: whether the catalogue does not know it any more.
        folder: path of its folder; None where that is not known.
    """

    words: str
    is_gone: bool = False
    folder: str | None = None


def subjects_of(session: Session, asked: Iterable[Asked]) -> dict[Asked, Subject]:
    """Look up what messages are about.

    The last word of a job's name says what its id is of: a folder, an image, a chain or a HeadStart disk.

    Args:
        session: any session.
        asked: job and id of each message.

    Returns:
        The subject of each; of one that is gone, or cannot be read, words that say so.
    """
    wanted = set(asked)
    ids: dict[str, set[int]] = defaultdict(set)
    for actor, subject_id in wanted:
        if actor is not None and subject_id is not None:
            ids[actor.rpartition("_")[2]].add(subject_id)
    known = {
        "folder": _folders(session, ids["folder"]),
        "image": _images(session, ids["image"]),
        "chain": _chains(session, ids["chain"]),
        "disk": _disks(session, ids["disk"]),
    }
    return {each: _subject(each, known) for each in wanted}


def _subject(asked: Asked, known: dict[str, dict[int, Subject]]) -> Subject:
    actor, subject_id = asked
    if actor is None or subject_id is None:
        return Subject("a message that cannot be read", is_gone=True)
    kind = actor.rpartition("_")[2]
    found = known.get(kind, {}).get(subject_id)
    if found is not None:
        return found
    return Subject(f"{kind} {subject_id}, which is no longer catalogued", is_gone=True)


def _batches(ids: set[int]) -> Iterable[list[int]]:
    ordered = sorted(ids)
    return (ordered[start : start + _IN_ONE_QUERY] for start in range(0, len(ordered), _IN_ONE_QUERY))


def _folders(session: Session, ids: set[int]) -> dict[int, Subject]:
    found = {}
    for batch in _batches(ids):
        for folder_id, path in session.execute(select(Folder.id, Folder.path).where(Folder.id.in_(batch))):
            found[folder_id] = Subject(f"folder {path}", folder=path)
    return found


def _images(session: Session, ids: set[int]) -> dict[int, Subject]:
    found = {}
    for batch in _batches(ids):
        query = select(Image.id, Image.name, Folder.path).join(Folder, Folder.id == Image.folder_id)
        for image_id, name, path in session.execute(query.where(Image.id.in_(batch))):
            found[image_id] = Subject(f"{name} in {path}", folder=path)
    return found


def _chains(session: Session, ids: set[int]) -> dict[int, Subject]:
    found = {}
    for batch in _batches(ids):
        query = select(Chain.id, Chain.volume, Chain.base_number, Folder.path)
        rows = session.execute(query.join(Folder, Folder.id == Chain.folder_id).where(Chain.id.in_(batch)))
        for chain_id, volume, base, path in rows:
            name = image_name(volume, base).filename().removesuffix(".spf")
            found[chain_id] = Subject(f"chain {name} in {path}", folder=path)
    return found


def _disks(session: Session, ids: set[int]) -> dict[int, Subject]:
    found = {}
    for batch in _batches(ids):
        query = select(HeadStartDisk.id, HeadStartDisk.volume, HeadStartJob.name, Folder.path)
        query = query.join(HeadStartJob, HeadStartJob.id == HeadStartDisk.job_id)
        rows = session.execute(
            query.join(Folder, Folder.id == HeadStartJob.folder_id).where(HeadStartDisk.id.in_(batch))
        )
        for disk_id, volume, name, path in rows:
            found[disk_id] = Subject(f"disk of {volume}, HeadStart job {name!r}", folder=path)
    return found


def verification_of(folder: Folder, image: Image, engine_version: str) -> Work:
    """Return the work of verifying an image as it is now.

    Args:
        folder: its folder.
        image: the image.
        engine_version: version of the software that does it.
    """
    stamp = stamp_of(image)
    return Work(
        WorkKind.VERIFY,
        f"{folder.path}/{stamp.name} {stamp.size_bytes} {stamp.mtime_ns}",
        engine_version,
        folder_id=folder.id,
        title=f"{stamp.name} in {folder.path}",
    )
