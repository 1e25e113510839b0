"""The actors, registered on a broker that is given."""

from __future__ import annotations

import time
from collections.abc import Callable

import dramatiq
import structlog

from actors.context import AgentContext, StopRequested
from actors.hints import CONSOLIDATE, HEADSTART, RECONCILE, RESTORE_TEST, REVERIFY, VERIFY, Hints, Job
from actors.outage import AGAIN_S
from policies.errors import BusyError, CatalogAwayError

_log = structlog.get_logger("worker")

Run = Callable[[AgentContext, Hints, int], None]
"""A job: surroundings, where to say what is next, and the id of what it is about."""


def build_actors(broker: dramatiq.Broker, context: AgentContext) -> Hints:
    """Register an actor for each kind of job, each with a queue and a time limit of its own.

    Args:
        broker: takes the actors; it need not be the global one.
        context: surroundings of the jobs.

    Returns:
        Hints that reach these actors.
    """
    from actors.chain_work import look_after_chain  # late: these bring in the engine
    from actors.headstart import roll_disk
    from actors.reconcile import reconcile_folder
    from actors.restore_tests import try_restore
    from actors.verify import reverify_image, verify_image

    hints = Hints(broker)
    runs: list[tuple[Job, Run]] = [
        (RECONCILE, reconcile_folder),
        (VERIFY, verify_image),
        (REVERIFY, reverify_image),
        (CONSOLIDATE, look_after_chain),
        (HEADSTART, roll_disk),
        (RESTORE_TEST, try_restore),
    ]
    for job, run in runs:
        _register(broker, job, run, context, hints)
    return hints


def _perform(context: AgentContext, run: Callable[[], None]) -> None:
    """Run a job; a catalogue that is away is waited for, and a chain that another worker took over is left to it."""
    while not context.stopping.is_set():
        begun_s = time.monotonic()
        try:
            run()
        except CatalogAwayError as error:
            context.outage.begin(error, begun_s)
            context.stopping.wait(AGAIN_S)
        except BusyError as error:
            _log.info("left to another worker", reason=error.reason)
            return
        except StopRequested:
            return  # the folder did not answer just then; the next start goes on
        else:
            context.outage.end(begun_s)
            return


def _register(broker: dramatiq.Broker, job: Job, run: Run, context: AgentContext, hints: Hints) -> None:
    def perform(subject_id: int) -> None:
        _perform(context, lambda: run(context, hints, subject_id))

    dramatiq.actor(
        broker=broker,
        actor_name=job.name,
        queue_name=job.queue,
        max_retries=0,
        time_limit=int(job.time_limit.total_seconds() * 1000),
    )(perform)
