"""Where programs ask for metrics and health: two pages over HTTP.

    GET /metrics    all metrics, as Prometheus reads them
    GET /healthz    200 while the agent is well, else 503; JSON that names each part

Whoever asks must show the token, if there is one: `Authorization: Bearer TOKEN`. It binds to loopback unless told
otherwise, and is no place for the open Internet: there is no TLS, put a proxy before it.
"""

from __future__ import annotations

import hmac
import json
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

import structlog
from prometheus_client import CONTENT_TYPE_LATEST

from ops.observe.health import Health
from policies.errors import ConfigurationError, RollforwardError

_log = structlog.get_logger("herald")

_READ_TIMEOUT_S: Final = 10
_AT_ONCE_MAX: Final = 8
"""So many requests are answered at once; others wait in the kernel's queue."""


class Endpoint:
    """A server in a thread of its own.

    Args:
        address: IP address to listen on.
        port: TCP port; 0 for any free one.
        token: what whoever asks must show; empty for nothing.
        metrics: gives all metrics as text.
        health: looks at the parts of the agent.

    Raises:
        ConfigurationError: it cannot listen there.
    """

    def __init__(
        self,
        address: str,
        port: int,
        token: str,
        *,
        metrics: Callable[[], bytes],
        health: Callable[[], Health],
    ) -> None:
        try:
            self._server = _Server((address, port), token, metrics, health)
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen: {error.strerror}",
                path=f"{address} port {port}",
                hint="Set another metrics.port in herald.toml.",
            ) from error
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="endpoint", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(
        self, address: tuple[str, int], token: str, metrics: Callable[[], bytes], health: Callable[[], Health]
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.token, self.metrics, self.health = token, metrics, health
        self._free = threading.BoundedSemaphore(_AT_ONCE_MAX)
        super().__init__(address, _Handler)

    def process_request(self, request: object, client_address: object) -> None:
        self._free.acquire()
        super().process_request(request, client_address)  # type: ignore[arg-type]

    def process_request_thread(self, request: object, client_address: object) -> None:
        try:
            super().process_request_thread(request, client_address)  # type: ignore[arg-type]
        finally:
            self._free.release()

    def handle_error(self, request: object, client_address: object) -> None:
        _log.info("a request ended early", client=str(client_address))


class _Handler(BaseHTTPRequestHandler):
    timeout = _READ_TIMEOUT_S
    server_version = "rollforward"
    sys_version = ""
    server: _Server

    def do_GET(self) -> None:
        if not self._may_ask():
            self._answer(HTTPStatus.UNAUTHORIZED, b"show the token\n", "text/plain")
        elif self.path == "/metrics":
            self._show_metrics()
        elif self.path == "/healthz":
            found = self.server.health()
            status = HTTPStatus.OK if found.is_well else HTTPStatus.SERVICE_UNAVAILABLE
            body = json.dumps(found.to_json(), ensure_ascii=False).encode(errors="backslashreplace")
            self._answer(status, body + b"\n", "application/json")
        else:
            self._answer(HTTPStatus.NOT_FOUND, b"there are /metrics and /healthz\n", "text/plain")

    def _show_metrics(self) -> None:
        try:
            self._answer(HTTPStatus.OK, self.server.metrics(), CONTENT_TYPE_LATEST)
        except RollforwardError as error:
            body = f"{error}\n".encode(errors="backslashreplace")
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, body, "text/plain")

    def _may_ask(self) -> bool:
        token = self.server.token
        shown = self.headers.get("Authorization", "")
        return not token or hmac.compare_digest(shown.encode(errors="replace"), f"Bearer {token}".encode())

    def _answer(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        if status is HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", "Bearer")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass  # a scrape every few seconds is no event
