"""A real Redis of its own for a test, and real Dramatiq workers on it, which a test may kill."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import redis

from ops.redis_server import embed_redis

NAMESPACE = "rollforward-test"

_WORKER = """
import sys, threading
from pathlib import Path
from typing import Self
import dramatiq
from dramatiq import Worker
from actors.broker import make_broker
from actors.hints import JOBS

url, namespace, home = sys.argv[1:]
broker = make_broker(url, namespace)
home = Path(home)

def perform(job, subject_id):
    (home / f"{job.queue}-{subject_id}").touch()
    if subject_id >= 1000:
        raise RuntimeError(f"subject {subject_id} is poison")
    while not (home / "go").exists():
        threading.Event().wait(0.02)

for job in JOBS:
    dramatiq.actor(lambda subject_id, job=job: perform(job, subject_id), broker=broker, actor_name=job.name,
                   queue_name=job.queue, max_retries=0)
broker.delay_queues.clear()
worker = Worker(broker, worker_timeout=50, worker_threads=len(JOBS))
worker.queue_prefetch = 1
worker.start()
(home / f"ready-{broker.broker_id}").touch()
threading.Event().wait()
"""


class RedisServer:
    """A server on a socket of its own, which may be killed and started again.

    Args:
        home: its socket's folder.
    """

    def __init__(self, home: Path) -> None:
        self._embedded = embed_redis(home)
        self._running: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return self._embedded.url

    def start(self) -> None:
        """Start it, empty, and wait until it answers."""
        self._running = subprocess.Popen(
            self._embedded.command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        assert self._running.stdin is not None
        self._running.stdin.write(self._embedded.configuration.encode())
        self._running.stdin.close()
        wait_until(self._embedded.is_ready, "Redis")

    def kill(self) -> None:
        """Kill it with -9, if it runs."""
        running, self._running = self._running, None
        if running is not None:
            running.kill()
            running.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


@contextlib.contextmanager
def redis_server(home: Path) -> Iterator[str]:
    """Run a server on a socket below `home`; give its address."""
    with RedisServer(home) as server:
        yield server.url


@contextlib.contextmanager
def dramatiq_worker(url: str, home: Path, namespace: str = NAMESPACE) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker whose jobs wait for the file `go`, and fail for subjects from 1000 on."""
    before = set(home.glob("ready-*"))
    root = str(Path(__file__).resolve().parents[1])
    running = subprocess.Popen(
        [sys.executable, "-c", _WORKER, url, namespace, str(home)],
        env={**os.environ, "PYTHONPATH": root},
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: set(home.glob("ready-*")) - before, "the worker")
        yield running
    finally:
        running.kill()
        running.wait()


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


def all_keys(client: redis.Redis) -> dict[bytes, bytes]:
    """Take a picture of everything that a server holds, byte by byte, but for the heartbeats of workers."""
    binary = redis.Redis(connection_pool=redis.ConnectionPool.from_url(_url_of(client)))
    keys = [key for key in binary.scan_iter() if not key.endswith(b"__heartbeats__")]
    return {key: binary.dump(key) or b"" for key in keys}


def _url_of(client: redis.Redis) -> str:
    return f"unix://{client.connection_pool.connection_kwargs['path']}?db=0"
