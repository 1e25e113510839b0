"""What the commands about queues work with: the catalogue, and the way to the agent's Redis."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from actors.hints import JOBS
from ops.catalogue_access import Desk, opened_desk

if TYPE_CHECKING:
    import redis

    from actors.queue_changes import QueueChanges
    from actors.queues import QueueReader

_PATIENCE_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class QueueDesk:
    """What a command about queues works with.

    Attributes:
        desk: catalogue, clock and settings.
        reader: reads the queues.
        changes: changes them.
        now: real time.
        engine_version: version of this software.
    """

    desk: Desk
    reader: QueueReader
    changes: QueueChanges
    now: datetime
    engine_version: str


@contextlib.contextmanager
def opened_queues(state: str | None) -> Iterator[QueueDesk]:
    """Open the catalogue and the way to Redis; nothing is asked of Redis yet.

    Args:
        state: what `--state` says.

    Raises:
        ConfigurationError: a setting cannot be used.
        CatalogError: the catalogue cannot be used.
    """
    from actors.queue_changes import QueueChanges
    from actors.queues import QueueReader
    from ops.clock import machine_now
    from ops.redis_server import redis_address

    with opened_desk(state) as desk:
        client = _client(desk.settings.redis_url or redis_address(desk.settings.state_dir))
        with contextlib.closing(client):
            namespace = desk.settings.namespace
            reader = QueueReader(client, namespace, dict.fromkeys(job.queue for job in JOBS))
            changes = QueueChanges(client, namespace)
            yield QueueDesk(desk, reader, changes, machine_now(), version("rollforward"))


def _client(url: str) -> redis.Redis:
    import redis

    from ops.redis_server import check_redis_url

    check_redis_url(url)
    return redis.Redis.from_url(
        url,
        decode_responses=True,
        encoding_errors="backslashreplace",
        socket_timeout=_PATIENCE_S,
        socket_connect_timeout=_PATIENCE_S,
        retry=None,
    )
