"""A worker process: takes hints from the queues and does what they are about.

Each queue is consumed one message at a time, and there is a thread for each queue: so a long verification
delays neither a scan nor a consolidation, and a killed worker loses one job of a kind at most.
"""

from __future__ import annotations

import os
import threading
from importlib.metadata import version
from typing import Final

import structlog
from dramatiq import Worker

from actors.broker import make_broker
from actors.context import AgentContext, Pace
from actors.hints import JOBS
from actors.middleware import StopMiddleware
from actors.registry import build_actors
from actors.throttle import Throttle
from actors.trying import Pulse
from ops.clock import machine_now, parse_clock
from ops.ending import Ending
from ops.forgetting import Forgetting
from ops.logs import set_up_logging
from ops.observe.pulse import WORKER, beat
from ops.restore_tester import ChildTester, sweep_tests
from ops.settings import Settings
from policies.errors import CatalogError
from policies.folder_policy import DEFAULT_AGENT_POLICY
from storage.catalog.database import Catalog
from storage.catalog.leases import let_go_of_all
from storage.credentials import KEY_FILE, CredentialSeal

_log = structlog.get_logger("worker")

IDLE_POLL_MS: Final = 100
"""An idle queue is looked at so often."""

_JOBS_SHARE: Final = 0.4
"""This share of the time until it is killed, a worker waits for its jobs, and no longer for a silent folder."""

_BEAT_S: Final = 5.0
"""So often it shows that all its threads live."""


def main() -> None:
    """Work until SIGTERM or SIGINT; then let go of what is under way and end."""
    settings = Settings.from_environment(os.environ)
    set_up_logging(settings.log_format)
    ending = Ending.prepared(settings.stop_s)
    catalog = Catalog(settings.catalogue_url)
    context = _make_context(settings, catalog)
    if settings.redis_url is None:
        raise SystemExit("a worker needs REDIS_URL")
    broker = make_broker(settings.redis_url, settings.namespace, stop=StopMiddleware(context.stopping))
    build_actors(broker, context)
    broker.delay_queues.clear()  # nothing is ever sent with a delay: three consumers less that poll
    worker = Worker(broker, worker_timeout=IDLE_POLL_MS, worker_threads=len(JOBS))
    worker.queue_prefetch = 1  # a message waits in Redis, where others can take it, never behind a long job
    sweep_tests()
    pulse = Pulse(context)
    pulse.start()
    worker.start()
    forgetting = Forgetting(catalog, context.clock)
    beat(settings.state_dir, WORKER)
    _log.info("ready")
    while not ending.wait(_BEAT_S):
        if pulse.is_alive() and all(thread.is_alive() for thread in worker.workers):
            beat(settings.state_dir, WORKER)
        forgetting.tick()
    worker.stop(timeout=int(settings.stop_s * 1000 * _JOBS_SHARE))
    pulse.end()
    _let_go(context)
    ending.leave()


def _let_go(context: AgentContext) -> None:
    """Let go of what jobs hold that did not end in time: it is neither a failure nor a crash.

    Crash: it counts as a crash of each job.
    """
    try:
        with context.catalog.write() as session:
            let_go_of_all(session, context.holder)
    except CatalogError as error:
        _log.warning("what is under way could not be let go of", reason=error.reason)


def _make_context(settings: Settings, catalog: Catalog) -> AgentContext:
    return AgentContext(
        catalog=catalog,
        clock=parse_clock(settings.clock),
        machine_clock=machine_now,
        engine_version=version("rollforward"),
        pace=Pace(
            settle_time=settings.seconds("settle_s"),
            rescan_interval=settings.seconds("rescan_s"),
            hint_again=settings.seconds("hint_again_s"),
            lease_time=settings.seconds("lease_s"),
            silence=settings.seconds("silence_s"),
        ),
        stopping=threading.Event(),
        throttle=Throttle(DEFAULT_AGENT_POLICY.performance.cpu_percent, settings.workers),
        seal=CredentialSeal(settings.state_dir / KEY_FILE),
        tester=ChildTester(settings.state_dir),
    )


if __name__ == "__main__":
    main()
