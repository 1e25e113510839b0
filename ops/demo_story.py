"""The demonstration's story: a volume lives for two days, the agent looks after its images, two points come back.

A disk is kept ready all the while; in the end it is finalized, and other programs read it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

from hsr.restore import restore
from ops.demo_agent import DemoAgent
from ops.demo_screen import Proof, Screen, Step
from ops.demo_volume import DemoVolume, is_clean, read_disk, sha256_of
from policies.calendar import day_bounds
from policies.errors import RollforwardError
from policies.names import parse_image_name
from storage.capture import capture
from storage.catalog.models import Event, EventKind
from storage.chain import Chain
from storage.folder import chains, scan_folder
from storage.writer import Published

VOLUME: Final = "DEMO"
JOB: Final = "standby"
FIRST_DAY: Final = date(2026, 3, 2)
BASE_HOUR: Final = 7
CAPTURE_HOURS: Final = (9, 11, 13, 15, 17, 19)
DAYS: Final = 2

_PATIENCE_S: Final = 60.0
_SHOWN: Final = {EventKind.LANDED: "landed", EventKind.VERIFIED: "verified"}
_TROUBLE: Final = {EventKind.FOUND_BAD, EventKind.FAILED, EventKind.QUARANTINED, EventKind.FOLDER_LOST}


@dataclass(frozen=True, slots=True)
class _Truth:
    """What the volume was at a point."""

    taken_at: datetime
    sha256: str


class Story:
    """Plays the demonstration.

    Args:
        work_dir: an empty directory for everything.
        screen: shows what happens.
        time_zone: IANA name; the story's days follow it.
        check: called again and again; raises when the story is to end.
    """

    def __init__(
        self, work_dir: Path, screen: Screen, time_zone: str, check: Callable[[], None] = lambda: None
    ) -> None:
        self._check = check
        self._work_dir = work_dir
        self._screen = screen
        self._zone_name = time_zone
        self._zone = ZoneInfo(time_zone)
        self._folder = work_dir / "images"
        self._truths: dict[int, _Truth] = {}
        self._written_at: dict[str, datetime] = {}
        self._verified: set[str] = set()
        self._dailies: set[str] = set()
        self._disks = work_dir / "disks"
        self._disk_proof: Proof | None = None

    def play(self) -> bool:
        """Play it; tell whether everything was proven.

        Raises:
            RollforwardError: something went wrong on the way.
        """
        scratch = self._work_dir / "scratch"
        for directory in (self._folder, self._disks, scratch):
            directory.mkdir(parents=True)
        volume = DemoVolume(self._work_dir / "volume.raw", scratch)
        start = self._at(FIRST_DAY, BASE_HOUR)
        with DemoAgent(self._work_dir, self._folder, start, self._zone_name) as agent:
            self._screen.say(
                f"making an ext4 volume of {volume.SIZE_MIB} MiB with real files, starting the agent"
            )
            volume.make()
            self._wait_for(agent, agent.is_ready, "its start")
            for index in range(DAYS):
                self._play_day(agent, volume, index)
            self._disk_proof = self._finalize(agent)
            self._screen.say("the agent stops", aside=True)
        return self._prove()

    def _play_day(self, agent: DemoAgent, volume: DemoVolume, index: int) -> None:
        day = FIRST_DAY + timedelta(days=index)
        self._screen.day(f"{day:%A} {day.day} {day:%B %Y}")
        if index == 0:
            self._capture(agent, volume, self._at(day, BASE_HOUR), "the whole volume")
            self._stand_by(agent)
        for order, hour in enumerate(CAPTURE_HOURS, start=1):
            self._screen.say("files in the volume change", aside=True)
            change = volume.change(index * len(CAPTURE_HOURS) + order)
            self._capture(agent, volume, self._at(day, hour), str(change))
        self._screen.say("every image is read back from its medium", aside=True)
        self._wait_for(agent, self._all_verified, "verification")
        agent.clock.set(day_bounds(day, self._zone)[1] + timedelta(seconds=1))
        self._screen.say("midnight: the day is over, the agent rolls it up", aside=True)
        self._wait_for(agent, lambda: len(self._dailies) > index and self._all_verified(), "the daily")

    def _stand_by(self, agent: DemoAgent) -> None:
        """Have a disk kept ready, an hour behind the volume."""
        self._wait_for(agent, self._all_verified, "verification")
        self._screen.say("a standby disk is asked for, an hour behind", aside=True)
        agent.command("location", "add", "standby", self._disks)
        agent.command(
            "hsr",
            "add",
            JOB,
            self._folder,
            "--location",
            "standby",
            "--subfolder",
            "",
            "--format",
            "vhdx",
            "--lag",
            "1h",
        )

    def _finalize(self, agent: DemoAgent) -> Proof:
        """Make the standby disk ready to be used, and read it as a hypervisor would."""
        self._screen.say("the standby disk is finalized", aside=True)
        disk, last = self._disks / f"{VOLUME}.vhdx", max(self._truths)
        started = time.monotonic()
        agent.command("hsr", "finalize", JOB, "--volume", VOLUME)
        seconds = time.monotonic() - started
        self._show_news(agent)
        content = self._work_dir / "disk.raw"
        told = read_disk(disk, content)
        truth = self._truths[last]
        return Proof(
            last,
            truth.taken_at,
            (disk.name,),
            truth.sha256,
            sha256_of(content),
            is_clean(content),
            seconds,
            told,
        )

    def _at(self, day: date, hour: int) -> datetime:
        return datetime(day.year, day.month, day.day, hour, tzinfo=self._zone)

    def _capture(self, agent: DemoAgent, volume: DemoVolume, now: datetime, about: str) -> None:
        agent.clock.set(now)
        self._screen.say("the changed granules are captured", aside=True)
        truth = sha256_of(volume.path)
        published = capture(volume.path, self._folder, VOLUME, now=now.astimezone(UTC))
        number = published.header.end.number
        self._truths[number] = _Truth(now, truth)
        self._written_at[published.path.name] = datetime.now(UTC)
        self._screen.image(_step(published, now, about))
        self._show_news(agent)

    def _all_verified(self) -> bool:
        return self._written_at.keys() <= self._verified

    def _wait_for(self, agent: DemoAgent, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while not condition():
            if time.monotonic() > deadline:
                raise RollforwardError(f"the agent took too long for {what}:\n{agent.last_words()}")
            agent.wait()
            self._show_news(agent)

    def _show_news(self, agent: DemoAgent) -> None:
        self._check()
        for event in agent.new_events():
            self._show_event(event)

    def _show_event(self, event: Event) -> None:
        name = event.subject
        if event.kind in _TROUBLE:
            raise RollforwardError(f"{name}: {event.text}")
        if event.kind is EventKind.CONSOLIDATED:
            self._dailies.add(name)
            self._written_at[name] = event.recorded_at
            self._screen.image(self._daily_step(event))
        elif event.kind in _SHOWN and name in self._written_at:
            seconds = (event.recorded_at - self._written_at[name]).total_seconds()
            self._screen.state(name, _SHOWN[event.kind], max(seconds, 0.0))
        elif event.kind is EventKind.ROLLED_ON:
            self._screen.rolled(event.text)
        if event.kind is EventKind.VERIFIED:
            self._verified.add(name)

    def _daily_step(self, event: Event) -> Step:
        name = parse_image_name(event.subject)
        stored_bytes = int(event.facts.get("stored_bytes") or 0)
        about = f"{event.facts.get('sources')} images in one"
        number = name.number or 0 if name is not None else 0
        return Step(
            event.at.astimezone(self._zone), event.subject, about, "daily", stored_bytes, stored_bytes, number
        )

    def _prove(self) -> bool:
        found = chains(scan_folder(self._folder, VOLUME))
        ((volume, base), images) = next(iter(found.items()))
        chain = Chain(self._folder, volume, base, images)
        self._screen.chain(chain)
        last = max(self._truths)
        middle = len(CAPTURE_HOURS) + len(CAPTURE_HOURS) // 2
        proofs = [self._prove_point(chain, number) for number in (last, middle)]
        if self._disk_proof is not None:
            self._screen.proof(self._disk_proof)
            proofs.append(self._disk_proof)
        return all(proof.holds for proof in proofs)

    def _prove_point(self, chain: Chain, number: int) -> Proof:
        self._check()
        truth = self._truths[number]
        self._screen.say(f"restoring point {number}", aside=True)
        path = chain.path_to(chain.point(number))
        target = self._work_dir / f"restored-{number:03d}.raw"
        started = time.monotonic()
        restore(path, target)
        seconds = time.monotonic() - started
        names = tuple(image.name for image in path)
        proof = Proof(
            number, truth.taken_at, names, truth.sha256, sha256_of(target), is_clean(target), seconds
        )
        self._screen.proof(proof)
        return proof


def _step(published: Published, now: datetime, about: str) -> Step:
    kind = "base" if published.header.start is None else "incremental"
    return Step(
        now,
        published.path.name,
        about,
        kind,
        published.changed_bytes,
        published.stored_bytes,
        published.header.end.number,
    )
