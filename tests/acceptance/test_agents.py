"""Two agents with one catalogue, killed at work again and again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.conftest import Tell
from tests.bed import quick_folder
from tests.checks.agents import share_a_folder
from tests.postgres import postgres_server
from tests.queue_server import RedisServer

pytestmark = pytest.mark.acceptance


def test_two_agents_killed_in_turn(tell: Tell, tmp_path: Path) -> None:
    with quick_folder() as place, postgres_server() as postgres, RedisServer(tmp_path) as redis:
        tell(
            "one of two agents killed at work, Redis too",
            lambda: share_a_folder(
                place, postgres.new_url(prepared=False), redis, days=7, per_day=4, kills=20, with_redis=True
            ),
        )
