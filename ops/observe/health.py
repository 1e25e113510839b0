"""Whether the agent is well: what must work for images to be looked after."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from ops.observe.pulse import LOOKOUT, WORKER, last_beat
from ops.settings import Settings
from ops.words import age_words
from policies.errors import CatalogError
from storage.catalog.agents import last_summary_day
from storage.catalog.database import Catalog

LOOKOUT_SILENCE: Final = timedelta(seconds=60)
"""A lookout that has not finished a look around for so long is not well, its own pace apart."""

WORKER_SILENCE: Final = timedelta(seconds=60)
"""Nor is a worker."""

_REDIS_TIMEOUT_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Health:
    """How the agent is.

    Attributes:
        parts: what is wrong with each part, in words; None for a part that is well.
    """

    parts: Mapping[str, str | None]

    @property
    def is_well(self) -> bool:
        """Whether nothing is wrong."""
        return not any(self.parts.values())

    def to_json(self) -> dict[str, object]:
        """Write it as JSON values."""
        return {
            "status": "well" if self.is_well else "unwell",
            "parts": {name: wrong or "well" for name, wrong in self.parts.items()},
        }


def judge_pulse(name: str, last: datetime | None, silence: timedelta, machine_now: datetime) -> str | None:
    """Tell what is wrong with a process.

    Args:
        name: of the process.
        last: when it was last seen at work; None for never.
        silence: how long it may be silent.
        machine_now: real time.

    Returns:
        What is wrong, in words; None if it is well.
    """
    if last is None:
        return f"the {name} has not begun"
    age = machine_now - last
    return f"the {name} was last at work {age_words(age)} ago" if age > silence else None


def check_health(settings: Settings, catalog: Catalog, machine_now: datetime) -> Health:
    """Look at every part.

    Args:
        settings: where everything is.
        catalog: the catalogue.
        machine_now: real time.
    """
    pace = 3 * settings.seconds("tick_s")
    lookout = last_beat(settings.state_dir, LOOKOUT)
    worker = last_beat(settings.state_dir, WORKER)
    return Health(
        {
            "lookout": judge_pulse("lookout", lookout, max(LOOKOUT_SILENCE, pace), machine_now),
            "worker": judge_pulse("worker", worker, WORKER_SILENCE, machine_now),
            "catalogue": _catalogue_trouble(catalog),
            "redis": _redis_trouble(settings.redis_url),
        }
    )


def _catalogue_trouble(catalog: Catalog) -> str | None:
    try:
        with catalog.read() as session:
            last_summary_day(session)
    except CatalogError as error:
        return error.reason
    return None


def _redis_trouble(url: str | None) -> str | None:
    import redis

    if url is None:
        return "no Redis is set"
    client = redis.Redis.from_url(
        url, socket_timeout=_REDIS_TIMEOUT_S, socket_connect_timeout=_REDIS_TIMEOUT_S, retry=None
    )
    with contextlib.closing(client):
        try:
            client.ping()
        except (redis.RedisError, OSError) as error:
            return f"does not answer: {type(error).__name__}"
    return None
