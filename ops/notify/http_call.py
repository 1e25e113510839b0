"""One HTTP request: bounded in time and size, certificates checked, and no redirect followed.

A redirect could lead what we send, and our signature, to another host; so it counts as an error that says where it
pointed.
"""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from ops.notify.deadline import deadline
from ops.words import plain
from policies.errors import DeliveryError

_ANSWER_BYTES_MAX: Final = 4_096


def call(
    method: str,
    url: str,
    *,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    timeout_s: float,
    ca_file: str = "",
) -> None:
    """Make a request, and expect a status from 200 to 299.

    Args:
        method: such as "POST".
        url: http or https; errors show no more of it than its host, since its path may be a secret.
        body: what is sent.
        headers: further ones.
        timeout_s: longest time for all of it.
        ca_file: certificates to trust in place of the system's; empty for the system's.

    Raises:
        DeliveryError: there is no answer in time, or another one.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        tls = ssl.create_default_context(cafile=ca_file or None)
        connection = http.client.HTTPSConnection(host, parts.port, timeout=timeout_s, context=tls)
    else:
        connection = http.client.HTTPConnection(host, parts.port, timeout=timeout_s)

    def held() -> socket.socket | None:
        return connection.sock

    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        with deadline(timeout_s, held):
            connection.request(method, target, body or None, dict(headers or {}))
            answer = connection.getresponse()
            answer.read(_ANSWER_BYTES_MAX)
    except TimeoutError:
        raise DeliveryError(f"no answer within {timeout_s:g} s", path=host) from None
    except (OSError, http.client.HTTPException) as error:
        raise DeliveryError(f"no answer: {plain(error) or type(error).__name__}", path=host) from None
    finally:
        connection.close()
    if 300 <= answer.status < 400:
        elsewhere = urlsplit(answer.headers.get("Location", "")).hostname or "another address"
        raise DeliveryError(
            f"redirected to {plain(elsewhere)}, which is not followed",
            path=host,
            hint="Set the address that it leads to.",
        )
    if not 200 <= answer.status < 300:
        raise DeliveryError(f"answered {answer.status} {plain(answer.reason)[:100]}", path=host)
