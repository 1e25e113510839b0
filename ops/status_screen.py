"""How things stand, on one screen, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

import click

from ops.observe.space import Space
from ops.status import FolderStanding, Standing, gather_standing
from ops.status_socket import Question
from ops.words import age_words, count_words, plain, size_words
from policies.names import Tier
from storage.catalog.models import ImageState
from storage.catalog.status import Tally

if TYPE_CHECKING:
    from ops.catalogue_access import Desk

_BAR_CELLS = 10
_UNVERIFIED = (ImageState.SETTLING, ImageState.LANDED, ImageState.VERIFYING)
_LOW = 0.1


def told(desk: Desk, machine_now: datetime, question: Question) -> str:
    """Gather how things stand, and write it as it was asked for.

    Args:
        desk: the catalogue and the clock.
        machine_now: real time.
        question: what is asked.

    Raises:
        CatalogError: the catalogue cannot be read.
    """
    standing = gather_standing(desk, machine_now, folders_max=question.folders_max)
    return json.dumps(standing_json(standing)) if question.as_json else screen(standing)


def screen(standing: Standing) -> str:
    """Draw how things stand.

    Args:
        standing: all of it.
    """
    return "\n".join(_lines(standing))


def standing_json(standing: Standing) -> dict[str, object]:
    """Write how things stand as JSON values, with keys that stay."""
    agent = standing.agent
    return {
        "kind": "status",
        "running": agent.is_running,
        "wrong": list(agent.wrong),
        "state_dir": agent.state_dir,
        "time": agent.now.isoformat(),
        "folders_in_all": standing.folders_in_all,
        "images": {state.value: tally.images for state, tally in standing.total.by_state.items()},
        "stored_bytes": sum(tally.stored_bytes for tally in standing.total.by_tier.values()),
        "tiers": {
            tier.value: standing.total.by_tier[tier].images for tier in Tier if tier in standing.total.by_tier
        },
        "chains_due": standing.chains_due,
        "chains_waiting": standing.chains_waiting,
        "work": {
            kind: {"running": one.running, "waiting": one.waiting, "quarantined": one.quarantined}
            for kind, one in standing.work.items()
        },
        "running_work": [
            {"work": kind, "subject": subject, "since": since.isoformat()}
            for kind, subject, since in standing.running
        ],
        "troubles_in_all": standing.troubles_in_all,
        "troubles": [
            {
                "kind": one.kind.value,
                "place": one.place,
                "subject": one.subject,
                "reason": one.reason,
                "since": one.began_at.isoformat(),
            }
            for one in standing.troubles
        ],
        "frozen": [
            {"place": one.place, "since": one.since.isoformat(), "reason": one.reason, "ends": one.ends}
            for one in standing.freezes
        ],
        "letters_waiting": standing.letters_waiting,
        "folders": [_folder_json(folder) for folder in standing.folders],
    }


def _folder_json(folder: FolderStanding) -> dict[str, object]:
    space = folder.space
    return {
        "path": folder.path,
        "problem": folder.problem,
        "description": folder.description,
        "computer": folder.computer,
        "images": {state.value: tally.images for state, tally in folder.counts.items()},
        "stored_bytes": folder.present.stored_bytes,
        "free_bytes": space.free_bytes if space else None,
        "device_bytes": space.size_bytes if space else None,
        "newest_at": folder.newest_at.isoformat() if folder.newest_at else None,
        "volumes": [
            {
                "volume": one.volume,
                "newest_at": one.newest_at.isoformat() if one.newest_at else None,
                "waits_for": one.waiting,
            }
            for one in folder.volumes
        ],
    }


def _lines(standing: Standing) -> Iterator[str]:
    now = standing.agent.now
    yield _agent_line(standing)
    yield _totals_line(standing)
    yield _work_line(standing)
    for kind, subject, since in standing.running[:3]:
        yield f"  {click.style('▶', fg='cyan')} {kind} {plain(subject)}, since {age_words(now - since)}"
    for freeze in standing.freezes[:3]:
        mark = click.style("frozen", fg="yellow", bold=True)
        yield f"  {mark}  {plain(freeze.place)}: {plain(freeze.reason)}; it ends {plain(freeze.ends)}"
    for trouble in standing.troubles[:5]:
        subject = f"{trouble.subject} in {trouble.place}" if trouble.subject else trouble.place
        mark = click.style("trouble", fg="red", bold=True)
        yield f"  {mark} {plain(subject)}: {plain(trouble.reason)} ({age_words(now - trouble.began_at)})"
    if standing.troubles_in_all > 5:
        yield f"  … and {standing.troubles_in_all - 5:,} more troubles"
    if not standing.folders_in_all:
        yield ""
        yield "No folder is managed yet: rollforward folder add PATH"
        return
    yield ""
    for folder in standing.folders:
        yield from _folder_lines(folder, now)
    left = standing.folders_in_all - len(standing.folders)
    if left > 0:
        yield f"… and {left:,} more folders: rollforward status --all"


def _agent_line(standing: Standing) -> str:
    agent = standing.agent
    if not agent.is_running:
        words = click.style("not running", fg="red", bold=True)
        return f"agent    {words} on {plain(agent.state_dir)}: rollforward up"
    if agent.wrong:
        return f"agent    {click.style('unwell', fg='yellow', bold=True)}: {'; '.join(agent.wrong)}"
    return f"agent    {click.style('running', fg='green', bold=True)} on {plain(agent.state_dir)}"


def _totals_line(standing: Standing) -> str:
    total = standing.total
    there = sum(total.by_tier.values(), Tally())
    tiers = [
        f"{total.by_tier[tier].images:,} {'captured' if tier is Tier.INCREMENTAL else tier.value}"
        for tier in Tier  # bases are counted with the incrementals: both are as they were captured
        if tier in total.by_tier
    ]
    images = f"{count_words(there.images, 'image')}, {size_words(there.stored_bytes)}"
    return f"images   {images} in {count_words(standing.folders_in_all, 'folder')}" + (
        f" ({', '.join(tiers)})" if tiers else ""
    )


def _work_line(standing: Standing) -> str:
    unverified = sum(
        standing.total.by_state[state].images for state in _UNVERIFIED if state in standing.total.by_state
    )
    running = sum(one.running for one in standing.work.values())
    again = sum(one.waiting for one in standing.work.values())
    aside = sum(one.quarantined for one in standing.work.values())
    parts = [
        f"{unverified:,} to verify",
        f"{count_words(standing.chains_due, 'chain')} due",
        f"{running:,} running",
        f"{again:,} to be tried again",
    ]
    for number, words, colour in (
        (standing.chains_waiting, "chains that cannot go on", "yellow"),
        (aside, "set aside", "red"),
        (standing.letters_waiting, "letters not delivered", "yellow"),
    ):
        if number:
            parts.append(click.style(f"{number:,} {words}", fg=colour))
    return "work     " + ", ".join(parts)


def _folder_lines(folder: FolderStanding, now: datetime) -> Iterator[str]:
    good = folder.problem is None and ImageState.BAD not in folder.counts
    mark = click.style("●", fg="green" if good else "red")
    computer = f"  from {plain(folder.computer)}" if folder.computer else ""
    words = f"  {plain(folder.description)}" if folder.description else ""
    yield f"{mark} {click.style(plain(folder.path), bold=True)}{computer}{click.style(words, dim=True)}"
    if folder.problem is not None:
        yield f"  {click.style(plain(folder.problem), fg='red')}"
    present = folder.present
    facts = [count_words(present.images, "image"), size_words(present.stored_bytes)]
    for state in (ImageState.BAD, ImageState.MISSING):
        if state in folder.counts:
            facts.append(click.style(f"{folder.counts[state].images:,} {state.value}", fg="red"))
    yield f"  {space_bar(folder.space)}  {', '.join(facts)}"
    ages = []
    for volume in folder.volumes[:6]:
        age = age_words(now - volume.newest_at) if volume.newest_at else "none"
        ages.append(f"{plain(volume.volume)} {age}")
        if volume.waiting is not None:
            ages[-1] += click.style(" waits", fg="yellow")
    if len(folder.volumes) > 6:
        ages.append(f"and {len(folder.volumes) - 6:,} more")
    if ages:
        yield f"  newest: {', '.join(ages)}"


def space_bar(space: Space | None) -> str:
    """Draw how full a device is.

    Args:
        space: the device; None if it did not answer in time.
    """
    if space is None or not space.size_bytes:
        return f"[{'?' * _BAR_CELLS}] free space unknown"
    share = 1 - space.free_bytes / space.size_bytes
    cells = min(max(round(share * _BAR_CELLS), 0), _BAR_CELLS)
    colour = "red" if 1 - share < _LOW else "green"
    bar = click.style("█" * cells, fg=colour) + click.style("░" * (_BAR_CELLS - cells), dim=True)
    return f"[{bar}] {size_words(space.free_bytes)} free of {size_words(space.size_bytes)}"
