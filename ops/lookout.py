"""The lookout process: watcher and scheduler. It sends hints, and does no work itself."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial

import structlog
from sqlalchemy.orm import Session

from actors.broker import make_broker
from actors.hints import Hints
from actors.outage import Outage
from ops.clock import Clock, machine_now, parse_clock
from ops.clock_keeper import ClockKeeper
from ops.ending import Ending
from ops.logs import set_up_logging
from ops.observe.pulse import LOOKOUT, beat
from ops.settings import Settings
from policies.errors import CatalogAwayError, RollforwardError
from storage.catalog.chains import chains_due
from storage.catalog.database import Catalog
from storage.catalog.headstart import disks_due
from storage.catalog.point_tests import disks_to_test
from watcher.pacing import Pacer
from watcher.watching import Watcher

_log = structlog.get_logger("lookout")


class Scheduler:
    """Says which chains are due. A tick reads those alone, however many there are.

    Args:
        catalog: knows when each chain is due.
        clock: calendar time.
        hints: where to say it.
        pacer: holds back what was said a moment ago.
    """

    def __init__(self, catalog: Catalog, clock: Clock, hints: Hints, pacer: Pacer) -> None:
        self._catalog = catalog
        self._clock = clock
        self._hints = hints
        self._pacer = pacer

    def tick(self, machine_time: datetime) -> None:
        """Name the chains that are due.

        Args:
            machine_time: real time, for the pace.

        Raises:
            CatalogError: the catalogue cannot be read.
        """
        with self._catalog.read() as session:
            due = chains_due(session, self._clock())
        for chain_id, _ in due:
            if self._pacer.may_say(chain_id, machine_time) and not self._hints.chain_due(chain_id):
                self._pacer.forget(chain_id)
                return  # no Redis at present: the next tick tries again


class DiskScheduler:
    """Says which HeadStart disks are due for something. A tick reads those alone.

    Args:
        catalog: knows when each disk is due.
        clock: calendar time.
        find: finds those that are due.
        say: says it of one; tells whether that reached anybody.
        pacer: holds back what was said a moment ago.
    """

    def __init__(
        self,
        catalog: Catalog,
        clock: Clock,
        find: Callable[[Session, datetime], list[int]],
        say: Callable[[int], bool],
        pacer: Pacer,
    ) -> None:
        self._catalog = catalog
        self._clock = clock
        self._find = find
        self._say = say
        self._pacer = pacer

    def tick(self, machine_time: datetime) -> None:
        """Name the disks that are due.

        Args:
            machine_time: real time, for the pace.

        Raises:
            CatalogError: the catalogue cannot be read.
        """
        with self._catalog.read() as session:
            due = self._find(session, self._clock())
        for disk_id in due:
            if self._pacer.may_say(disk_id, machine_time) and not self._say(disk_id):
                self._pacer.forget(disk_id)
                return  # no Redis at present: the next tick tries again


def main() -> None:
    """Watch and tick until SIGTERM or SIGINT."""
    settings = Settings.from_environment(os.environ)
    set_up_logging(settings.log_format)
    ending = Ending.prepared(settings.stop_s)
    if settings.redis_url is None:
        raise SystemExit("the lookout needs REDIS_URL")
    catalog = Catalog(settings.catalogue_url)
    hints = Hints(make_broker(settings.redis_url, settings.namespace))
    say_again = settings.seconds("hint_again_s")
    clock = parse_clock(settings.clock)
    watcher = Watcher(catalog, hints.folder_changed, say_again=say_again, poll_s=settings.poll_s)
    scheduler = Scheduler(catalog, clock, hints, Pacer(say_again))
    disks = DiskScheduler(catalog, clock, disks_due, hints.disk_due, Pacer(say_again))
    tests = DiskScheduler(catalog, clock, disks_to_test, hints.test_due, Pacer(say_again))
    keeper = ClockKeeper(catalog, clock, lease_time=settings.seconds("lease_s"))
    watcher.start()
    _log.info("ready")
    ticks = (watcher.tick, scheduler.tick, disks.tick, tests.tick)
    rounds = Rounds([keeper.tick, *(partial(_at_this_moment, tick) for tick in ticks)])
    while True:
        if rounds.go():
            beat(settings.state_dir, LOOKOUT)
        if ending.wait(settings.tick_s):
            break
    watcher.stop()
    catalog.close()
    ending.leave()


def _at_this_moment(tick: Callable[[datetime], None]) -> None:
    tick(machine_now())


class Rounds:
    """What is done at each tick; trouble is told once, not at each of them.

    Args:
        steps: in this order.
    """

    def __init__(self, steps: Sequence[Callable[[], None]]) -> None:
        self._steps = steps
        self._outage = Outage("lookout")
        self._said = ""

    def go(self) -> bool:
        """Look around once; tell whether that went well."""
        begun_s = time.monotonic()
        try:
            for step in self._steps:
                step()
        except CatalogAwayError as error:
            self._outage.begin(error, begun_s)
            return False
        except RollforwardError as error:
            if str(error) != self._said:
                _log.warning("tick failed, the next one tries again", reason=str(error))
            self._said = str(error)
            return False
        self._outage.end(begun_s)
        self._said = ""
        return True


if __name__ == "__main__":
    main()
