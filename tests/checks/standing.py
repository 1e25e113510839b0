"""A catalogue of many folders with many images, and how long it takes to tell how they stand."""

from __future__ import annotations

import json
import os
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from ops.catalogue_access import opened_desk
from ops.clock import machine_now
from ops.observe.event_counts import EventCounter
from ops.observe.health import Health
from ops.observe.metrics import Sources, make_registry, metrics_text
from ops.observe.queues import QueueLength
from ops.observe.space import Space
from ops.settings import Settings
from ops.status import gather_standing
from ops.status_screen import screen
from ops.status_socket import Question, ask
from storage.catalog import Catalog, sqlite_url
from storage.catalog.tally_triggers import TALLY_TRIGGERS
from tests.integration.agent_run import wait_for

NOW = "2026-11-22 20:00:00.000000"


@dataclass(frozen=True)
class Told:
    """What was measured.

    Attributes:
        gather_s: time to gather and draw the screen, in a process that has done so before.
        asked_s: time of the whole command, the start of its process included, where the agent's herald answers; the
            median of five.
        read_s: the same where no agent runs, and the command reads the catalogue itself.
        screen: what it showed.
        values: what it said as JSON, every folder in it.
    """

    gather_s: float
    asked_s: float
    read_s: float
    screen: str
    values: dict[str, object]


def fill_catalogue(state_dir: Path, folders: int, images: int) -> None:
    """Fill a catalogue: a chain a folder; every tenth image a daily, one in 500 not verified; a chain in 100 due."""
    state_dir.mkdir(mode=0o700, parents=True)
    catalog = Catalog(sqlite_url(state_dir / "catalogue.sqlite"))
    catalog.prepare()
    catalog.close()
    database = sqlite3.connect(state_dir / "catalogue.sqlite", isolation_level=None)
    database.execute("PRAGMA synchronous=OFF")
    database.execute("BEGIN")
    for name in ("image_counted", "image_counted_anew", "image_uncounted"):
        database.execute(f"DROP TRIGGER {name}")  # counted at the end, all at once
    database.execute("CREATE TEMP TABLE number (n INTEGER PRIMARY KEY)")
    database.executemany("INSERT INTO number VALUES (?)", ((n,) for n in range(1, max(folders, images) + 1)))
    database.execute(
        "INSERT INTO folder (id, path, time_zone, added_at, rescan_at, description, sort_priority, settings,"
        " settings_revision) SELECT n, ? || '/' || n, 'Europe/Berlin', ?, ?, '', 0, '{}', 0 FROM number WHERE n <= ?",
        (str(state_dir / "images"), NOW, NOW, folders),
    )
    database.execute(
        "INSERT INTO chain (id, folder_id, chain_uid, volume, base_number, next_due_at, revision, fence)"
        " SELECT n, n, zeroblob(16), 'DATA', 1, iif(n % 100, '2099-01-01 00:00:00.000000', ?), 0, 0 FROM number"
        " WHERE n <= ?",
        (NOW, folders),
    )
    database.execute(
        "INSERT INTO image (folder_id, chain_id, name, state, stored_bytes, mtime_ns, still_since, first_seen_at,"
        " covers, tier, assumed) SELECT f.n, f.n, 'DATA-b001-i' || i.n || iif(i.n % 10, '', '-cd') || '.spi',"
        " iif(i.n % 500, 'good', 'landed'), 1048576, i.n, :now,"
        " strftime('%Y-%m-%d %H:%M:%S.000000', :now, '-' || (15 * (:images - i.n)) || ' minutes'), '[]',"
        " iif(i.n % 10, 'incremental', 'daily'), 0"
        " FROM number AS f JOIN number AS i WHERE f.n <= :folders AND i.n <= :images",
        {"now": NOW, "folders": folders, "images": images},
    )
    database.execute(
        "INSERT INTO folder_tally (folder_id, state, tier, images, stored_bytes)"
        " SELECT folder_id, state, tier, count(*), sum(stored_bytes) FROM image GROUP BY folder_id, state, tier"
    )
    for statement in TALLY_TRIGGERS["sqlite"]:
        database.execute(statement)
    database.execute("COMMIT")
    database.close()


def tell_standing(state_dir: Path) -> Told:
    """Ask how things stand, in this process and by the command."""
    with opened_desk(str(state_dir)) as desk:
        for _ in range(2):
            begun = time.monotonic()
            shown = screen(gather_standing(desk, machine_now(), folders_max=8))
            gather_s = time.monotonic() - begun
    command = [sys.executable, "-m", "ops", "status", "--state", str(state_dir)]
    read_s = statistics.median(_time(command) for _ in range(5))
    with herald(state_dir):
        asked_s = statistics.median(_time(command) for _ in range(5))
        whole = subprocess.run([*command, "--json"], check=True, capture_output=True, text=True)
    return Told(gather_s, asked_s, read_s, shown, json.loads(whole.stdout))


@contextmanager
def herald(state_dir: Path) -> Iterator[None]:
    """Run the herald on a catalogue; it answers by then."""
    settings = Settings.from_environment({}, state_dir=str(state_dir))
    process = subprocess.Popen(
        [sys.executable, "-m", "ops.herald"],
        env=os.environ | settings.to_environment(),
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: ask(state_dir, Question(1, as_json=False)), "an answer of the herald")
        yield
    finally:
        process.terminate()
        process.wait()


@dataclass(frozen=True)
class Scraped:
    """What Prometheus would read.

    Attributes:
        seconds: time to gather and write it.
        size_bytes: of the text.
        samples: value of each, by its name and labels.
    """

    seconds: float
    size_bytes: int
    samples: dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(state_dir: Path) -> Scraped:
    """Ask for all metrics once, and read them as Prometheus does: each family once, each sample once, all numbers."""
    with opened_desk(str(state_dir)) as desk:
        sources = Sources(
            desk.catalog,
            desk.clock,
            "1",
            lambda: Health({"lookout": None, "catalogue": 'it is "away"\n'}),
            lambda: [QueueLength("verify", 1, 2, 3)],
            lambda paths: {path: Space(path, 1, 10, 20) for path in paths},
            EventCounter(),
        )
        begun = time.monotonic()
        text = metrics_text(make_registry(sources))
        seconds = time.monotonic() - begun
    samples: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    names = []
    families = list(text_string_to_metric_families(text.decode()))
    for family in families:
        names.append(family.name)
        assert family.documentation, family.name
        assert family.type in ("gauge", "counter"), family.name
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in samples, key
            samples[key] = float(sample.value)
    assert len(names) == len(set(names)), names
    return Scraped(seconds, len(text), samples)


def _time(command: list[str]) -> float:
    begun = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    return time.monotonic() - begun
