"""Restore tests by schedule: what is asked of a tester, and when; what is claimed, recorded, and in the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from actors.headstart_disk import password_place
from hsr.testing_restore.order import Answer, Order
from ops.notify.troubles import find_troubles
from ops.observe.metrics import _disk_metrics
from policies.errors import ConfigurationError, FormatError, RestoreError, RollforwardError
from policies.notices import Trouble, TroubleKind, judge_notices
from policies.restore_tests import RestoreTesting, Rhythm, Verdict
from storage.catalog import EventKind, ImageState
from storage.catalog.attempts import attempts, drop_attempt
from storage.catalog.claims import stored_claims
from storage.catalog.headstart import all_jobs
from storage.catalog.headstart_models import JobState, PointTest
from storage.catalog.models import Attempt
from storage.catalog.point_tests import prune_restore_tests, restore_tests_of, restore_tests_over
from storage.credentials import Credentials
from tests.household import Household
from tests.standby import StandBy
from tests.unit.tiny import Password

MORNING = datetime(2026, 3, 2, 8, tzinfo=UTC)
DAY = timedelta(days=1)
GOOD = Answer(Verdict.GOOD, "volume: ext4 good", 1.5, facts={"verdict": "good"})
BAD = Answer(Verdict.BAD, "volume: ext4 bad: 3 errors", 2.0, screenshot="/state/screenshots/x.png")


@dataclass
class Laboratory:
    """Tests nothing, and says what it is told to."""

    says: Answer | RollforwardError | Callable[[], Answer | None] = GOOD
    orders: list[Order] = field(default_factory=list)

    def __call__(self, order: Order, stopping: Callable[[], bool]) -> Answer | None:
        self.orders.append(order)
        if isinstance(self.says, RollforwardError):
            raise self.says
        return self.says() if callable(self.says) else self.says

    @property
    def count(self) -> int:
        return len(self.orders)


@pytest.fixture
def laboratory() -> Laboratory:
    return Laboratory()


@pytest.fixture
def standby(tmp_path: Path, laboratory: Laboratory) -> Iterator[StandBy]:
    found = StandBy(tmp_path, Household(tmp_path / "home", MORNING, tester=laboratory))
    yield found
    found.home.catalog.close()


def begin(standby: StandBy, rhythm: Rhythm = Rhythm.DAILY, *, starts: bool = False, points: int = 1) -> None:
    """Capture points, save a job, and let its disk be built."""
    for _ in range(points):
        standby.capture()
        standby.home.settle()
        standby.home.now += timedelta(hours=1)
    standby.add_job(testing=RestoreTesting(rhythm, starts, "up" if starts else None))
    standby.home.settle()


def pass_days(standby: StandBy, days: int) -> None:
    standby.home.now += days * DAY
    standby.home.settle()


def rows(standby: StandBy) -> list[PointTest]:
    with standby.home.catalog.read() as session:
        return restore_tests_of(session, standby.home.folder_id)


def troubled(standby: StandBy) -> list[Attempt]:
    with standby.home.catalog.read() as session:
        return attempts(session)


def claims(standby: StandBy) -> list[str]:
    with standby.home.catalog.read() as session:
        return [one.key for one in stored_claims(session) if one.key.startswith("hsr-test:")]


def test_the_point_where_the_disk_stands_is_tested_once_a_day(standby: StandBy, laboratory: Laboratory):
    begin(standby, points=3, starts=True)
    assert laboratory.count == 0  # the job was saved after today's time
    pass_days(standby, 1)
    [order] = laboratory.orders
    point = standby.stands_at()
    assert (order.point_id, point.number) == (point.id, 2)
    assert order.images[0].name == "V-b001.spf"
    assert order.roots == tuple(standby.home.images()[path.name].root for path in order.images)
    assert (order.starts, order.insists, order.marker, order.password) == (True, True, "up", None)
    standby.home.settle()
    assert laboratory.count == 1
    [row] = rows(standby)
    assert (row.point, row.number, row.volume, row.base_number) == (point.id.hex(), 2, "V", 1)
    assert (row.verdict, row.words, row.seconds, row.tested_at) == (
        Verdict.GOOD,
        GOOD.words,
        1.5,
        standby.home.now,
    )
    assert "point 2 is good" in standby.home.events(EventKind.RESTORE_TESTED)[0].text
    assert not troubled(standby)
    assert not claims(standby)


def test_a_job_without_tests_is_never_tested(standby: StandBy, laboratory: Laboratory):
    begin(standby, Rhythm.NEVER)
    pass_days(standby, 40)
    assert laboratory.count == 0
    assert standby.row().next_test_at is None


def test_of_what_was_missed_one_test_is_made_up_for(standby: StandBy, laboratory: Laboratory):
    begin(standby)
    pass_days(standby, 12)
    assert laboratory.count == 1
    standby.home.now += timedelta(hours=2)
    standby.home.settle()
    assert laboratory.count == 1
    pass_days(standby, 1)
    assert laboratory.count == 2


def test_what_a_test_reads_is_claimed_while_it_runs(standby: StandBy, laboratory: Laboratory):
    seen: list[str] = []

    def look() -> Answer:
        with standby.home.catalog.read() as session:
            seen.extend(name for one in stored_claims(session) if one.holder for name in one.names)
        return GOOD

    laboratory.says = look
    begin(standby, points=2)
    pass_days(standby, 1)
    assert sorted(seen) == sorted(path.name for path in laboratory.orders[0].images)
    assert not claims(standby)


def test_a_bad_point_is_told_of_and_nothing_else_happens_to_it(standby: StandBy, laboratory: Laboratory):
    laboratory.says = BAD
    begin(standby)
    before = standby.home.states()
    pass_days(standby, 1)
    assert standby.home.states() == before
    assert set(before.values()) == {ImageState.GOOD}
    [row] = rows(standby)
    assert (row.verdict, row.screenshot) == (Verdict.BAD, "/state/screenshots/x.png")
    [event] = standby.home.events(EventKind.RESTORE_TEST_BAD)
    assert "3 errors" in event.text
    assert not troubled(standby)
    laboratory.says = GOOD
    pass_days(standby, 1)
    assert [one.verdict for one in rows(standby)] == [Verdict.GOOD]  # of the same point the last one counts


def test_what_is_not_installed_is_said_once_and_tried_again_each_day(
    standby: StandBy, laboratory: Laboratory
):
    laboratory.says = ConfigurationError("qemu-img is not installed", hint="Install it.")
    begin(standby, Rhythm.MONTHLY)
    standby.home.now = datetime(2026, 4, 1, 8, tzinfo=UTC)
    standby.home.settle()
    assert standby.row().test_problem == "cannot be tested here: qemu-img is not installed. Install it."
    assert laboratory.count == 1
    assert not troubled(standby)
    for _ in range(3):
        pass_days(standby, 1)
    assert laboratory.count == 4
    assert len(standby.home.events(EventKind.RESTORE_TEST_BAD)) == 1
    laboratory.says = GOOD
    pass_days(standby, 1)
    assert standby.row().test_problem is None
    pass_days(standby, 1)
    assert laboratory.count == 5
    laboratory.says = Answer(Verdict.UNCLEAR, "journal", 0.1, lacking="qemu-storage-daemon is not installed")
    standby.home.now = datetime(2026, 5, 1, 8, tzinfo=UTC)
    standby.home.settle()
    assert "cannot be tested here: qemu-storage-daemon" in str(standby.row().test_problem)
    assert rows(standby)[-1].verdict is Verdict.UNCLEAR


def test_a_test_that_ends_badly_is_set_aside_until_the_next_is_due(standby: StandBy, laboratory: Laboratory):
    laboratory.says = RestoreError("the process that tests was killed by signal 9")
    begin(standby, Rhythm.WEEKLY)
    standby.home.now = datetime(2026, 3, 8, 8, tzinfo=UTC)  # a Sunday
    for _ in range(50):
        standby.home.settle()
        standby.home.now += timedelta(minutes=10)
    assert laboratory.count == 3
    assert [one.quarantined for one in troubled(standby)] == [True]
    assert "killed by signal 9" in str(standby.row().test_problem)
    laboratory.says = GOOD
    pass_days(standby, 7)
    assert laboratory.count == 4
    assert not troubled(standby)
    assert standby.row().test_problem is None


def test_a_worker_that_is_gone_blames_no_other_work(standby: StandBy, laboratory: Laboratory):
    class Gone(BaseException):
        pass

    def go() -> Answer:
        raise Gone

    begin(standby)
    laboratory.says = go
    for _ in range(2):
        standby.home.now += DAY
        with pytest.raises(Gone):
            standby.home.settle()
    [row] = troubled(standby)
    assert (row.crashes, row.quarantined) == (0, False)
    laboratory.says = GOOD
    pass_days(standby, 1)
    assert not troubled(standby)
    assert not claims(standby)


def test_a_dropped_test_stays_dropped(standby: StandBy, laboratory: Laboratory):
    laboratory.says = RestoreError("no")
    begin(standby)
    pass_days(standby, 1)
    with standby.home.catalog.write() as session:
        [row] = attempts(session)
        drop_attempt(session, row.id, "somebody")
    assert standby.row().test_problem == "no"
    laboratory.says = GOOD
    pass_days(standby, 3)
    assert laboratory.count == 1
    assert standby.row().test_problem is None


def test_an_image_that_reads_badly_is_verified_again(standby: StandBy, laboratory: Laboratory):
    begin(standby, points=2)
    name = standby.source_name(1)
    laboratory.says = FormatError("is damaged", path=str(standby.home.folder / name))
    standby.home.now += DAY
    standby.home.settle()
    assert len(standby.home.events(EventKind.VERIFIED, name)) == 2  # and found good
    laboratory.says = GOOD
    standby.home.now += timedelta(hours=1)
    standby.home.settle()
    assert laboratory.count == 2
    assert standby.row().test_problem is None


def test_a_point_that_no_good_images_lead_to_is_not_tested(standby: StandBy, laboratory: Laboratory):
    begin(standby, points=2)
    image = standby.home.folder / standby.source_name(1)
    whole = image.read_bytes()
    image.write_bytes(whole[:-400] + bytes(40) + whole[-360:])
    pass_days(standby, 1)
    assert standby.home.states()[image.name] is ImageState.BAD
    assert "no good images lead from a base to point 1" in str(standby.row().test_problem)
    assert laboratory.count == 0
    image.write_bytes(whole)
    standby.home.now += timedelta(hours=1)
    standby.home.settle()
    assert laboratory.count == 1
    assert standby.row().test_problem is None


def test_a_paused_job_is_not_tested_and_makes_up_for_it_once(standby: StandBy, laboratory: Laboratory):
    begin(standby)
    standby.set_state(JobState.PAUSED)
    pass_days(standby, 5)
    assert laboratory.count == 0
    standby.set_state(JobState.ENABLED)
    standby.home.settle()
    assert laboratory.count == 1


def test_a_test_that_was_stopped_is_still_due(standby: StandBy, laboratory: Laboratory):
    def stop() -> None:
        standby.set_state(JobState.PAUSED)

    begin(standby)
    laboratory.says = stop
    pass_days(standby, 1)
    assert (laboratory.count, rows(standby), claims(standby)) == (1, [], [])
    assert [one.failures for one in troubled(standby)] == [0]
    laboratory.says = GOOD
    standby.set_state(JobState.ENABLED)
    standby.home.settle()
    assert len(rows(standby)) == 1
    assert not troubled(standby)


def test_the_password_of_the_job_goes_with_the_order(tmp_path: Path, laboratory: Laboratory):
    home = Household(tmp_path / "home", MORNING, tester=laboratory)
    standby = StandBy(tmp_path, home, passwords=Password(b"horse"))
    standby.capture()
    home.settle()
    standby.add_job(testing=RestoreTesting(Rhythm.DAILY))
    assert home.context.seal is not None
    with home.catalog.write() as session:
        [job] = all_jobs(session)
        job.password = home.context.seal.seal(Credentials(job.name, b"horse"), password_place(job.uid))
    home.settle()
    pass_days(standby, 1)
    assert laboratory.orders[0].password == b"horse"
    assert "horse" not in repr(laboratory.orders[0])
    home.catalog.close()


def test_results_and_schedule_outlive_the_catalogue(standby: StandBy, laboratory: Laboratory):
    laboratory.says = BAD
    begin(standby, starts=True)
    pass_days(standby, 1)
    standby.home.lose_catalogue()
    standby.home.settle()
    [row] = rows(standby)
    assert (row.verdict, row.number, row.words) == (Verdict.BAD, 0, BAD.words)
    assert laboratory.count == 1
    pass_days(standby, 1)
    assert laboratory.count == 2
    assert (laboratory.orders[1].starts, laboratory.orders[1].marker) == (True, "up")


def test_words_that_no_database_takes_are_put_right(standby: StandBy, laboratory: Laboratory):
    laboratory.says = Answer(Verdict.UNCLEAR, "a\0b\x1b[31m \udcff\nend " + "x" * 2_000, 0.1)
    begin(standby)
    pass_days(standby, 1)
    words = rows(standby)[0].words
    assert words.startswith("a b [31m \ufffd end xx")
    assert len(words) == 1_000
    standby.home.lose_catalogue()
    standby.home.settle()
    assert rows(standby)[0].words == words


def test_results_are_forgotten_after_400_days(standby: StandBy):
    begin(standby, Rhythm.MONTHLY)
    pass_days(standby, 31)
    with standby.home.catalog.write() as session:
        assert not restore_tests_over(session, standby.home.now + 399 * DAY)
        over = restore_tests_over(session, standby.home.now + 400 * DAY)
        assert len(over) == 1
        prune_restore_tests(session, over)
    assert not rows(standby)


def told(standby: StandBy) -> list[Trouble]:
    with standby.home.catalog.read() as session:
        found = find_troubles(session, standby.home.now, {}, ())
    return [one for one in found.troubles if one.kind is TroubleKind.RESTORE_TEST]


def test_a_bad_point_is_a_trouble_until_the_next_good_one(standby: StandBy, laboratory: Laboratory):
    laboratory.says = BAD
    begin(standby)
    assert not told(standby)
    pass_days(standby, 1)
    [trouble] = told(standby)
    assert trouble.subject == "V, HeadStart job stand-by"
    assert "point 0 was tested as a restore, and is bad: volume: ext4 bad: 3 errors" in trouble.reason
    opened = judge_notices((), [trouble], standby.home.now)
    assert [one.trouble.key for one in opened.opened] == [trouble.key]
    laboratory.says = ConfigurationError("qemu-img is not installed")
    pass_days(standby, 1)
    assert told(standby)[0].key == trouble.key  # that is one trouble, not two
    laboratory.says = GOOD
    pass_days(standby, 1)
    assert not told(standby)
    cleared = judge_notices(opened.records, [], standby.home.now)
    assert [one.trouble.key for one in cleared.cleared] == [trouble.key]
    laboratory.says = ConfigurationError("qemu-img is not installed")
    pass_days(standby, 1)
    assert "cannot be tested here: qemu-img is not installed" in told(standby)[0].reason


def test_metrics_say_what_the_last_test_came_to(standby: StandBy, laboratory: Laboratory):
    laboratory.says = BAD
    begin(standby)
    pass_days(standby, 1)
    standby.home.now += timedelta(hours=1)
    with standby.home.catalog.read() as session:
        families = list(_disk_metrics(session, standby.home.now))
    found = {
        (one.name.removeprefix("rollforward_restore_test_"), one.labels.get("verdict")): one.value
        for family in families
        for one in family.samples
    }
    assert [found["verdict", word] for word in ("good", "unclear", "bad")] == [0, 0, 1]
    assert (found["age_seconds", None], found["seconds", None], found["not_possible", None]) == (3600, 2, 0)
