"""Metrics in the form of Prometheus, read from the catalogue whenever they are asked for.

Labels are folders, volumes and words out of a few; never files. Times follow the calendar clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from sqlalchemy.orm import Session

from ops.headstart_screen import job_views
from ops.observe.event_counts import EventCounter
from ops.observe.health import Health
from ops.observe.queues import QueueLength
from ops.observe.space import Space
from policies.restore_tests import Rhythm, Verdict
from storage.catalog.database import Catalog
from storage.catalog.folders import all_folders
from storage.catalog.freezes import stored_freezes
from storage.catalog.letters import count_waiting
from storage.catalog.models import Folder, ImageState
from storage.catalog.standing import (
    UNVERIFIED,
    count_chains_due,
    oldest_unverified,
    open_troubles,
    volumes,
    work_counts,
)
from storage.catalog.status import FolderCounts, counts_by_folder


@dataclass(frozen=True, slots=True)
class Sources:
    """Where metrics come from.

    Attributes:
        catalog: the catalogue.
        clock: calendar time.
        version: of this software.
        health: looks at the parts of the agent.
        queues: counts messages; None if Redis does not answer.
        spaces: measures folders.
        events: counts what happened.
    """

    catalog: Catalog
    clock: Callable[[], datetime]
    version: str
    health: Callable[[], Health]
    queues: Callable[[], list[QueueLength] | None]
    spaces: Callable[[Iterable[str]], dict[str, Space]]
    events: EventCounter


class CatalogueCollector:
    """Gathers all metrics anew for each scrape.

    Args:
        sources: where they come from.
    """

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def collect(self) -> Iterator[Metric]:
        """Give all metrics.

        Raises:
            CatalogError: the catalogue cannot be read.
        """
        sources = self._sources
        now = sources.clock()
        yield _one("rollforward_build_info", "The version that runs.", 1, {"version": sources.version})
        health = GaugeMetricFamily(
            "rollforward_healthy", "1 while a part of the agent is well.", labels=["part"]
        )
        for part, wrong in sources.health().parts.items():
            health.add_metric([part], 0 if wrong else 1)
        yield health
        yield from _queue_metrics(sources.queues())
        with sources.catalog.read() as session:
            folders = all_folders(session)
            counts = counts_by_folder(session)
            yield from _folder_metrics(folders, counts)
            yield from _age_metrics(session, folders, counts, now)
            yield from _work_metrics(session, now)
            yield from _disk_metrics(session, now)
            happened = CounterMetricFamily(
                "rollforward_events", "How often each kind of thing has happened.", labels=["kind"]
            )
            for kind, number in sources.events.counts(session).items():
                happened.add_metric([kind.value], number)
            yield happened
        yield from _space_metrics(sources.spaces(one.path for one in folders if one.problem is None))


def make_registry(sources: Sources) -> CollectorRegistry:
    """Return a registry with our metrics and no others."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(CatalogueCollector(sources))
    return registry


def metrics_text(registry: CollectorRegistry) -> bytes:
    """Return all metrics as text.

    Raises:
        CatalogError: the catalogue cannot be read.
    """
    return generate_latest(registry)


def _folder_metrics(folders: Iterable[Folder], counts: dict[int, FolderCounts]) -> Iterator[Metric]:
    images = GaugeMetricFamily(
        "rollforward_folder_images", "Images in a folder by state.", labels=["folder", "state"]
    )
    stored = GaugeMetricFamily(
        "rollforward_folder_stored_bytes",
        "Size of the images that are in a folder, by tier.",
        labels=["folder", "tier"],
    )
    reachable = GaugeMetricFamily(
        "rollforward_folder_reachable", "1 while a folder can be read.", labels=["folder"]
    )
    for folder in folders:
        path = _label(folder.path)
        reachable.add_metric([path], 0 if folder.problem else 1)
        held = counts.get(folder.id, FolderCounts())
        for state in ImageState:
            images.add_metric(
                [path, state.value], held.by_state[state].images if state in held.by_state else 0
            )
        for tier, tally in held.by_tier.items():
            stored.add_metric([path, tier.value], tally.stored_bytes)
    yield from (images, stored, reachable)


def _age_metrics(
    session: Session, folders: Iterable[Folder], counts: dict[int, FolderCounts], now: datetime
) -> Iterator[Metric]:
    paths = {folder.id: _label(folder.path) for folder in folders}
    unverified = GaugeMetricFamily(
        "rollforward_folder_oldest_unverified_age_seconds",
        "For how long the oldest image that is not verified yet has been there; 0 if there is none.",
        labels=["folder"],
    )
    behind = [
        folder_id for folder_id, held in counts.items() if any(state in held.by_state for state in UNVERIFIED)
    ]
    oldest = oldest_unverified(session, behind)
    for folder_id, path in paths.items():
        unverified.add_metric([path], _seconds(now, oldest.get(folder_id, now)))
    newest = GaugeMetricFamily(
        "rollforward_volume_last_image_age_seconds",
        "How long ago the last image of a volume landed, what was rolled up apart.",
        labels=["folder", "volume"],
    )
    waiting = GaugeMetricFamily(
        "rollforward_volume_chains_waiting",
        "Chains of a volume in which something is due that cannot be done, for a gap or another reason.",
        labels=["folder", "volume"],
    )
    for volume in volumes(session):
        labels = [paths.get(volume.folder_id, ""), _label(volume.volume)]
        if volume.newest_at is not None:
            newest.add_metric(labels, _seconds(now, volume.newest_at))
        waiting.add_metric(labels, volume.waiting_count)
    yield from (unverified, newest, waiting)


def _work_metrics(session: Session, now: datetime) -> Iterator[Metric]:
    attempts = GaugeMetricFamily(
        "rollforward_attempts",
        "Work that is under way, waits to be tried again, or is set aside.",
        labels=["work", "state"],
    )
    for kind, counts in work_counts(session).items():
        attempts.add_metric([kind.value, "running"], counts.running)
        attempts.add_metric([kind.value, "waiting"], counts.waiting)
        attempts.add_metric([kind.value, "quarantined"], counts.quarantined)
    yield attempts
    yield _one(
        "rollforward_chains_due",
        "Chains for which something may be due.",
        count_chains_due(session, now),
    )
    yield _counted(
        "rollforward_freezes",
        "Reasons for which nothing is removed.",
        "kind",
        [one.kind.value for one in stored_freezes(session) if one.ends_at is None or one.ends_at > now],
    )
    yield _counted(
        "rollforward_troubles_open",
        "Troubles that people were told of.",
        "kind",
        [one.kind.value for one in open_troubles(session)],
    )
    yield _one("rollforward_letters_waiting", "Letters that have not arrived yet.", count_waiting(session))


def _disk_metrics(session: Session, now: datetime) -> Iterator[Metric]:
    labels = ["job", "volume"]
    behind = GaugeMetricFamily(
        "rollforward_headstart_behind_seconds",
        "For how long a disk has been behind what it should stand at, its lag apart.",
        labels=labels,
    )
    age = GaugeMetricFamily(
        "rollforward_headstart_point_age_seconds", "Age of the point at which a disk stands.", labels=labels
    )
    verdict = GaugeMetricFamily(
        "rollforward_restore_test_verdict",
        "1 for what the last restore test of a disk's points has come to.",
        labels=[*labels, "verdict"],
    )
    tested_age = GaugeMetricFamily(
        "rollforward_restore_test_age_seconds", "How long ago that was.", labels=labels
    )
    took = GaugeMetricFamily("rollforward_restore_test_seconds", "How long that took.", labels=labels)
    stuck = GaugeMetricFamily(
        "rollforward_restore_test_not_possible", "1 while what is due cannot be tested.", labels=labels
    )
    lines = job_views(session, now)
    for line in lines:
        names = [_label(line.job.name), _label(line.disk.volume)]
        if line.job.test_rhythm is not Rhythm.NEVER:
            stuck.add_metric(names, line.disk.test_problem is not None)
        if line.tested is not None:
            for word in Verdict:
                verdict.add_metric([*names, word.value], line.tested.verdict is word)
            tested_age.add_metric(names, _seconds(now, line.tested.tested_at))
            took.add_metric(names, line.tested.seconds)
        behind.add_metric(names, line.behind.total_seconds())
        if line.standing is not None:
            age.add_metric(names, _seconds(now, line.standing.time))
    yield from (behind, age, verdict, tested_age, took, stuck)
    states = [line.state.value for line in lines]
    yield _counted("rollforward_headstart_disks", "Disks that are kept rolled forward.", "state", states)


def _space_metrics(spaces: dict[str, Space]) -> Iterator[Metric]:
    free = GaugeMetricFamily(
        "rollforward_folder_free_bytes", "What is free on the device of a folder.", labels=["folder"]
    )
    size = GaugeMetricFamily(
        "rollforward_folder_device_bytes", "Size of the device of a folder.", labels=["folder"]
    )
    for path, space in spaces.items():
        free.add_metric([_label(path)], space.free_bytes)
        size.add_metric([_label(path)], space.size_bytes)
    yield from (free, size)


def _queue_metrics(queues: list[QueueLength] | None) -> Iterator[Metric]:
    messages = GaugeMetricFamily(
        "rollforward_queue_messages", "Messages in Redis.", labels=["queue", "state"]
    )
    for one in queues or ():
        messages.add_metric([one.queue, "waiting"], one.waiting)
        messages.add_metric([one.queue, "running"], one.running)
        messages.add_metric([one.queue, "dead"], one.dead)
    yield messages


def _one(name: str, words: str, value: float, labels: dict[str, str] | None = None) -> Metric:
    labels = labels or {}
    family = GaugeMetricFamily(name, words, labels=list(labels))
    family.add_metric(list(labels.values()), value)
    return family


def _counted(name: str, words: str, label: str, values: Iterable[str]) -> Metric:
    numbers: dict[str, int] = {}
    for value in values:
        numbers[value] = numbers.get(value, 0) + 1
    family = GaugeMetricFamily(name, words, labels=[label])
    for value, number in sorted(numbers.items()):
        family.add_metric([value], number)
    return family


def _seconds(now: datetime, then: datetime) -> float:
    return max((now - then).total_seconds(), 0.0)


def _label(text: str) -> str:
    """Make a label of what may hold bytes that are no text."""
    return text.encode(errors="surrogateescape").decode(errors="replace")
