"""Sending hints: "look at this folder, this image, this chain, this disk"."""

from __future__ import annotations

from datetime import timedelta
from typing import Final, NamedTuple

import dramatiq
import structlog
from dramatiq.errors import DramatiqError
from redis.exceptions import RedisError

_log = structlog.get_logger("hints")


class Job(NamedTuple):
    """A kind of job.

    Attributes:
        name: name of its actor.
        queue: its own queue, so that no kind of work waits behind another.
        time_limit: after which a job counts as hung.
    """

    name: str
    queue: str
    time_limit: timedelta


RECONCILE: Final = Job("reconcile_folder", "reconcile", timedelta(hours=1))
VERIFY: Final = Job("verify_image", "verify", timedelta(hours=24))
REVERIFY: Final = Job("reverify_image", "reverify", timedelta(hours=24))
CONSOLIDATE: Final = Job("consolidate_chain", "consolidate", timedelta(hours=48))

HEADSTART: Final = Job("roll_disk", "headstart", timedelta(days=14))

RESTORE_TEST: Final = Job("test_disk", "restore-test", timedelta(hours=24))

JOBS: Final = (RECONCILE, VERIFY, REVERIFY, CONSOLIDATE, HEADSTART, RESTORE_TEST)
"""Every kind of job."""


class Hints:
    """Sends hints through a broker. A hint that cannot be sent is dropped: the next tick sends it again.

    Args:
        broker: where they go; its actors need not be known here.
    """

    def __init__(self, broker: dramatiq.Broker) -> None:
        self._broker = broker
        self._reaches = True

    def folder_changed(self, folder_id: int) -> bool:
        """Have a folder looked at; tell whether the hint was sent."""
        return self._send(RECONCILE, folder_id)

    def image_landed(self, image_id: int) -> bool:
        """Have an image verified; tell whether the hint was sent."""
        return self._send(VERIFY, image_id)

    def image_due_again(self, image_id: int) -> bool:
        """Have an image verified again; tell whether the hint was sent."""
        return self._send(REVERIFY, image_id)

    def chain_due(self, chain_id: int) -> bool:
        """Have a chain planned, and done what is due for it; tell whether the hint was sent."""
        return self._send(CONSOLIDATE, chain_id)

    def disk_due(self, disk_id: int) -> bool:
        """Have a HeadStart disk planned, and rolled on as far as it may be; tell whether the hint was sent."""
        return self._send(HEADSTART, disk_id)

    def test_due(self, disk_id: int) -> bool:
        """Have a restore of a HeadStart disk's point tested, if that is due; tell whether the hint was sent."""
        return self._send(RESTORE_TEST, disk_id)

    def _send(self, job: Job, subject_id: int) -> bool:
        message: dramatiq.Message[None] = dramatiq.Message(
            queue_name=job.queue, actor_name=job.name, args=(subject_id,), kwargs={}, options={}
        )
        try:
            self._broker.enqueue(message)
        except (RedisError, DramatiqError) as error:
            if self._reaches:
                _log.warning("no way to Redis: work waits in the catalogue until there is", reason=str(error))
            self._reaches = False
            return False
        if not self._reaches:
            _log.info("Redis is back")
        self._reaches = True
        return True
