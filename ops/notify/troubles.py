"""What is wrong at present, gathered from the catalogue and from the folders' devices."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from ops.headstart_screen import DiskLine, job_views
from ops.observe.space import Space
from ops.words import age_words, size_words
from policies.errors import ConfigurationError
from policies.folder_policy import DEFAULT_FOLDER_POLICY, FolderPolicy, NoticePolicy, parse_folder_policy
from policies.headstart import FALLS_BEHIND_AFTER, DiskState
from policies.notices import Trouble, TroubleKind, TroubleRecord, is_inactive, is_space_low
from policies.restore_tests import Rhythm, Verdict
from storage.catalog.agents import agent_policy
from storage.catalog.folders import all_folders
from storage.catalog.freezes import stored_freezes, waived_keys
from storage.catalog.models import Chain, Folder, ImageState, WorkKind
from storage.catalog.standing import bad_images, volumes, work_in_trouble
from storage.catalog.status import counts_by_folder

FAILURES: Final = 3
"""Work that failed so often is worth a notice, though it is tried again."""

_WORK: Final[Mapping[WorkKind, str]] = {
    WorkKind.VERIFY: "verifying",
    WorkKind.CONSOLIDATE: "rolling up",
    WorkKind.RETIRE: "retiring",
    WorkKind.DELETE: "deleting",
}


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found.

    Attributes:
        troubles: what is wrong.
        unknown: keys of troubles that were there before and that nobody can tell of at present.
    """

    troubles: tuple[Trouble, ...]
    unknown: frozenset[str]


def find_troubles(
    session: Session, now: datetime, spaces: Mapping[str, Space], known: Iterable[TroubleRecord]
) -> Findings:
    """Look for everything that is worth a notice.

    Args:
        session: any session.
        now: calendar time.
        spaces: devices that could be measured, by folder.
        known: what was known before.
    """
    folders = {folder.id: folder for folder in all_folders(session)}
    policies = _notice_policies(session, folders.values())
    lines = job_views(session, now)
    low_before = {one.trouble.key for one in known if one.trouble.kind is TroubleKind.LOW_SPACE}
    troubles = [
        *_unreachable(folders.values()),
        *_damaged(session, folders),
        *_failing(session, folders),
        *_frozen(session, folders, now),
        *_silent_volumes(session, folders, policies, now),
        *_standbys(lines),
        *_restore_tests(lines),
        *_low_space(folders.values(), policies, spaces, low_before),
    ]
    unknown: set[str] = set()
    if any(folder.path not in spaces for folder in folders.values()):
        unknown = low_before - {_space_key(space) for space in spaces.values()}
    return Findings(tuple(troubles), frozenset(unknown))


def _notice_policies(session: Session, folders: Iterable[Folder]) -> dict[int, NoticePolicy]:
    """Return what each folder asks for; the same settings are read once."""
    try:
        base = agent_policy(session).folders
    except ConfigurationError:
        base = DEFAULT_FOLDER_POLICY  # whoever plans the folder's chains says what is wrong with it
    read: dict[str, FolderPolicy] = {}
    found = {}
    for folder in folders:
        text = json.dumps(folder.settings, sort_keys=True)
        if text not in read:
            try:
                read[text] = parse_folder_policy(folder.settings, base, where=folder.path)
            except ConfigurationError:
                read[text] = base
        found[folder.id] = read[text].notices
    return found


def _unreachable(folders: Iterable[Folder]) -> Iterator[Trouble]:
    for folder in folders:
        if folder.problem is not None:
            yield Trouble(
                TroubleKind.UNREACHABLE,
                f"unreachable {folder.path}",
                folder.path,
                "",
                folder.problem,
                "Look whether the drive or share is there. Work goes on by itself once it is.",
            )
        elif folder.ledger_problem is not None:
            yield Trouble(
                TroubleKind.FAILURE,
                f"ledger {folder.path}",
                folder.path,
                "",
                f"its ledger cannot be used: {folder.ledger_problem}",
                "Nothing is removed from it meanwhile.",
            )


def _damaged(session: Session, folders: Mapping[int, Folder]) -> Iterator[Trouble]:
    counts = counts_by_folder(session)
    concerned = [folder_id for folder_id, held in counts.items() if ImageState.BAD in held.by_state]
    for image in bad_images(session, concerned):
        path = folders[image.folder_id].path
        yield Trouble(
            TroubleKind.DAMAGED,
            f"damaged {path}/{image.name} {image.mtime_ns}",
            path,
            image.name,
            image.reason or "it is not what was written",
            "Nothing is built on it. Put a good copy in its place, or remove it once other images lead on.",
        )


def _failing(session: Session, folders: Mapping[int, Folder]) -> Iterator[Trouble]:
    for work in work_in_trouble(session, failures=FAILURES):
        if work.kind in (WorkKind.NOTIFY, WorkKind.HEADSTART, WorkKind.RESTORE_TEST):
            continue  # a letter cannot tell that letters do not arrive; what stops a disk is told of the disk
        folder = folders.get(work.folder_id) if work.folder_id is not None else None
        doing = _WORK.get(work.kind, work.kind.value)
        reason = work.reason or "no reason is known"
        after = "it is set aside" if work.quarantined else "it is tried again"
        yield Trouble(
            TroubleKind.FAILURE,
            f"failure {work.kind.value} {work.subject}",
            folder.path if folder is not None else "the agent",
            work.title or work.subject,
            f"{doing} failed: {reason}; {after}",
            "Once the cause is mended: rollforward queue retry" if work.quarantined else "",
        )
    query = select(Chain).where(Chain.waits_for.is_not(None)).order_by(Chain.id).limit(2_000)
    for chain in session.scalars(query):
        path = folders[chain.folder_id].path
        yield Trouble(
            TroubleKind.WAITING,
            f"waiting {path} {chain.volume} {chain.base_number} {chain.chain_uid.hex()[:16]}",
            path,
            f"{chain.volume}, chain b{chain.base_number:03}",
            f"what is due cannot be done: {chain.waits_for}",
        )


def _frozen(session: Session, folders: Mapping[int, Folder], now: datetime) -> Iterator[Trouble]:
    for freeze in stored_freezes(session):
        if freeze.ends_at is not None and freeze.ends_at <= now:
            continue
        if freeze.key in waived_keys(session, freeze.folder_id or 0):
            continue
        folder = folders.get(freeze.folder_id) if freeze.folder_id is not None else None
        chain = session.get(Chain, freeze.chain_id) if freeze.chain_id is not None else None
        yield Trouble(
            TroubleKind.FROZEN,
            f"frozen {freeze.folder_id or 0} {freeze.chain_id or 0} {freeze.key}",
            folder.path if folder is not None else "all folders",
            f"{chain.volume}, chain b{chain.base_number:03}" if chain is not None else "",
            f"nothing is removed: {freeze.reason}. It ends {freeze.ends}.",
            "If all is well: rollforward unfreeze",
        )


def _silent_volumes(
    session: Session, folders: Mapping[int, Folder], policies: Mapping[int, NoticePolicy], now: datetime
) -> Iterator[Trouble]:
    for volume in volumes(session):
        folder = folders[volume.folder_id]
        days = policies[folder.id].inactivity_days
        if folder.problem is not None or volume.newest_at is None:
            continue
        if is_inactive(volume.newest_at, days, now):
            yield Trouble(
                TroubleKind.INACTIVITY,
                f"inactivity {folder.path} {volume.volume}",
                folder.path,
                volume.volume,
                f"no new image for more than {days} days; the last one landed on {volume.newest_at:%Y-%m-%d}",
                "Look whether the volume is still captured.",
            )


def _restore_tests(lines: Iterable[DiskLine]) -> Iterator[Trouble]:
    """Tell of disks whose last restore test found the point bad, or could not be done."""
    for line in lines:
        test, problem = line.tested, line.disk.test_problem
        if line.state is DiskState.FINALIZED or line.job.test_rhythm is Rhythm.NEVER:
            continue
        if test is not None and test.verdict is Verdict.BAD:
            reason = f"point {test.number} was tested as a restore, and is bad: {test.words}"
            hint = "No image is removed for it. To look at it by hand: rollforward test-restore"
        elif problem is not None:
            reason = f"what is due could not be tested: {problem}"
            hint = "It is tried again by itself. How often: rollforward hsr test"
        else:
            continue
        key = f"restore test {line.job.uid} {line.disk.volume}"
        subject = f"{line.disk.volume}, HeadStart job {line.job.name}"
        yield Trouble(TroubleKind.RESTORE_TEST, key, line.folder.path, subject, reason, hint)


def _standbys(lines: Iterable[DiskLine]) -> Iterator[Trouble]:
    for line in lines:
        place, subject = str(line.path), f"{line.disk.volume}, HeadStart job {line.job.name}"
        since = "" if line.disk.due_since is None else f"; it is {age_words(line.behind)} behind"
        if line.state is DiskState.NEEDS_FRESH:
            reason, hint = line.words, "To have it built anew: rollforward hsr enable --fresh"
        elif line.state is DiskState.STOPPED:
            reason, hint = line.words, "It goes on by itself once that is mended."
        elif line.state is DiskState.LENT and line.behind > FALLS_BEHIND_AFTER:
            reason, hint = line.words, "Nothing is applied to it until it is taken back."
        elif line.state is not DiskState.PAUSED and line.behind > FALLS_BEHIND_AFTER:
            reason, hint = (
                line.words,
                "Look whether the agent has enough to do it with, and what it waits for.",
            )
        else:
            continue
        key = f"standby {line.job.uid} {line.disk.volume}"
        yield Trouble(TroubleKind.STANDBY, key, place, subject, f"{reason}{since}", hint)


def _low_space(
    folders: Iterable[Folder],
    policies: Mapping[int, NoticePolicy],
    spaces: Mapping[str, Space],
    low_before: set[str],
) -> Iterator[Trouble]:
    limits: dict[str, tuple[Space, int]] = {}
    for folder in folders:
        space, limit = spaces.get(folder.path), policies[folder.id].low_space_percent
        if space is not None and limit is not None:
            before = limits.get(space.mount, (space, 0))
            limits[space.mount] = (space, max(before[1], limit))
    for mount, (space, limit) in limits.items():
        key = _space_key(space)
        if is_space_low(space.free_bytes, space.size_bytes, limit, was_low=key in low_before):
            percent = 100 * space.free_bytes / space.size_bytes
            yield Trouble(
                TroubleKind.LOW_SPACE,
                key,
                mount,
                "",
                f"{size_words(space.free_bytes)} of {size_words(space.size_bytes)} ({percent:.0f} %) are free;"
                f" below {limit} % is low",
                "Free some space, keep images for a shorter time, or use a larger device.",
            )


def _space_key(space: Space) -> str:
    return f"low_space {space.mount}"
