"""Whatever happens in whatever order, a HeadStart disk equals its point, and nothing that it needs is retired."""

from __future__ import annotations

import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from actors.headstart import _begin, how_many
from actors.headstart_disk import bring_to_goal
from actors.headstart_errand import bring_to, copy_disk, finalize_disk, held_disk, look_at_disk
from actors.headstart_view import load_disk
from policies.ancestry import trace_ancestry
from policies.cursor import roll_on_path
from policies.headstart import DiskState, counted_times, reachable_later
from storage.catalog import EventKind
from storage.catalog.headstart_models import JobState
from storage.pipeline import no_progress
from tests.household import Household
from tests.standby import StandBy

BEGIN = datetime(2026, 3, 2, 6, tzinfo=UTC)
HOUR = timedelta(hours=1)
VOLUME_BYTES = 256 << 10
_MEMORY = Path("/dev/shm")


class StandByLife(RuleBasedStateMachine):
    """Images land, days pass, roll-ups are made and their sources retire, people pause, enable, stop and finalize."""

    @initialize(lag=st.sampled_from([0, 2, 30]), kind=st.sampled_from(["raw", "vhd", "qcow2"]))
    def begin(self, lag: int, kind: str) -> None:
        self.place = Path(
            tempfile.mkdtemp(prefix="rollforward-test-", dir=_MEMORY if _MEMORY.is_dir() else None)
        )
        self.home = Household(self.place / "home", BEGIN)
        self.standby = StandBy(self.place, self.home, VOLUME_BYTES)
        self.lag, self.kind, self.jobs, self.kills = lag * HOUR, kind, 0, 0
        self.home.set_layer({"retention": {"keep_intraday_days": 2}})
        self.standby.capture()
        self.add_job()
        self.home.settle()

    def add_job(self) -> None:
        self.jobs += 1
        self.standby.add_job(self.lag, kind=self.kind, name=f"job{self.jobs}")

    def teardown(self) -> None:
        if hasattr(self, "home"):
            self.home.catalog.close()
            shutil.rmtree(self.place)

    @rule(hours=st.integers(1, 5))
    def an_image_lands(self, hours: int) -> None:
        self.home.now += hours * HOUR
        self.standby.capture()
        self.home.settle()

    @rule()
    def an_image_lands_and_nobody_is_there(self) -> None:
        self.home.now += HOUR
        self.standby.capture()

    @rule(days=st.integers(1, 3))
    def days_pass(self, days: int) -> None:
        for _ in range(days):
            self.home.now = self.home.now.replace(hour=5) + timedelta(days=1)
            self.home.settle()

    @rule()
    def somebody_pauses(self) -> None:
        self.standby.set_state(JobState.PAUSED)
        self.home.settle()

    @rule()
    def somebody_enables(self) -> None:
        self.standby.set_state(JobState.ENABLED)
        self.home.plan_anew()
        self.home.settle()

    @rule()
    def the_catalogue_is_lost(self) -> None:
        self.home.lose_catalogue()
        self.home.set_layer({"retention": {"keep_intraday_days": 2}})
        self.home.settle()

    @precondition(lambda self: self.kills < 2)
    @rule(polls=st.integers(0, 6), days=st.integers(0, 4))
    def the_worker_is_killed_in_the_middle(self, polls: int, days: int) -> None:
        """It rests where it was left while days pass, and what it was left with retires; then it goes on."""
        self.home.now += HOUR
        self.standby.capture()
        self.home.scan()
        self.home.drain()
        self.home.now += self.lag
        if not self.leave_half_done(polls):
            return self.home.settle()
        self.kills += 1
        self.home.reopen()
        self.standby.set_state(JobState.PAUSED)
        for _ in range(days):
            self.home.now = self.home.now.replace(hour=5) + timedelta(days=1)
            self.home.settle()
            self.nothing_that_it_needs_is_gone()
        self.standby.set_state(JobState.ENABLED)
        self.home.plan_anew()
        return self.home.settle()

    def leave_half_done(self, polls: int) -> bool:
        """Begin what is due for the disk, and do some of it; tell whether anything was."""
        context, left = self.home.context, [polls]

        def stopping() -> bool:
            left[0] -= 1
            return left[0] < 0

        self.home.plan_anew()
        view = load_disk(context, self.standby.row().id)
        if view is None or view.plan.goal is None:
            return False
        with context.catalog.write() as session:
            task = _begin(context, session, view)
        if isinstance(task, bool):
            return False
        bring_to_goal(context.seal, view, how_many(view), no_progress, stopping)
        return True

    @rule()
    def somebody_tests_a_copy(self) -> None:
        """The copy is a disk; the disk itself is rolled on."""
        row, copy = self.standby.row(), self.place / "copy"
        with held_disk(self.home.context, row.id, lambda: None):
            view = look_at_disk(self.home.context, row.id)
            point = view.cursor.points[-1]
            copy_disk(self.home.context, view, point, copy, no_progress, lambda: None)
        if self.kind == "raw":
            assert copy.read_bytes()[:VOLUME_BYTES] == self.standby.truth[point.number]
        assert copy.stat().st_size
        copy.unlink()
        self.home.settle()

    @precondition(lambda self: self.jobs < 3)
    @rule(ahead=st.integers(0, 4))
    def somebody_finalizes(self, ahead: int) -> None:
        """The disk becomes one that is used, at a point at or after its own; another job takes its place."""
        row = self.standby.row()
        with held_disk(self.home.context, row.id, lambda: None):
            view = look_at_disk(self.home.context, row.id)
            points = reachable_later(view.cursor, view.holdings)
            point = points[min(ahead, len(points) - 1)]
            view = bring_to(self.home.context, row.id, point, no_progress)
            assert self.standby.is_exact()
            assert self.standby.stands_at().number == point.number
            finalize_disk(self.home.context, view, point)
        assert self.standby.row().state is DiskState.FINALIZED
        self.standby.forget_job()
        self.add_job()
        self.home.settle()

    @invariant()
    def the_disk_equals_its_point(self) -> None:
        assert self.standby.is_exact()

    @invariant()
    def nothing_that_it_needs_is_gone(self) -> None:
        view = look_at_disk(self.home.context, self.standby.row().id)
        spans = [one.span for one in view.holdings if one.is_proven and not one.span.is_base]
        proven = [one.span for one in view.holdings if one.is_proven]
        newest = max((span.end for span in proven), key=lambda point: point.number)
        assert roll_on_path(view.cursor, spans, newest.id) is not None

    @invariant()
    def it_is_never_begun_anew(self) -> None:
        built = [one for one in self.home.events(EventKind.ROLLED_ON) if "built" in one.text]
        assert len(built) <= self.jobs

    @invariant()
    def the_lag_has_passed(self) -> None:
        view = look_at_disk(self.home.context, self.standby.row().id)
        tree = trace_ancestry(one.span for one in view.holdings if one.is_present)
        hi = view.cursor.points[-1]
        times = counted_times(view.holdings, tree)
        assert hi.id not in times or hi.number == 0 or times[hi.id] + self.lag <= self.home.now


TestStandByLife = StandByLife.TestCase
TestStandByLife.settings = settings(
    max_examples=5,
    stateful_step_count=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
