"""Posting letters to a web address, signed.

    POST /the/path HTTP/1.1
    Content-Type: application/json
    Rollforward-Letter: 12-a1b2c3                   the same when it is posted again
    Rollforward-Time: 1772431200                    seconds since 1970
    Rollforward-Signature: sha256=HEX               HMAC-SHA256 of TIME "." BODY with the secret

    {"form": "rollforward-letter/1", "kind": "trouble", …, "text": "the letter in words"}

Whoever receives it computes the signature anew over the bytes as they came, and refuses what is minutes old. Like mail,
a letter is posted at least once.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import datetime, tzinfo

from ops.notify.http_call import call
from ops.notify.letter import Letter
from ops.notify.letter_text import letter_text
from ops.notify.secret_file import read_secret
from ops.notify.settings import WebhookSettings


def sign(secret: str, time_s: int, body: bytes) -> str:
    """Return the signature of a body posted at a moment.

    Args:
        secret: what both sides know.
        time_s: seconds since 1970.
        body: the bytes that are posted.
    """
    signed = f"{time_s}.".encode() + body
    return "sha256=" + hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()


def post_letter(
    letter: Letter, settings: WebhookSettings, zone: tzinfo, letter_id: str, machine_now: datetime
) -> None:
    """Post a letter.

    Args:
        letter: the letter.
        settings: where to, and the secret.
        zone: whose time the words in it show.
        letter_id: names the letter.
        machine_now: real time, which the signature holds for.

    Raises:
        DeliveryError: it was not taken.
        ConfigurationError: the secret cannot be read.

    Crash: it was taken or not; posting it again does no harm.
    """
    values = letter.to_json() | {"text": letter_text(letter, zone)}
    body = json.dumps(values, ensure_ascii=False).encode(errors="backslashreplace")
    time_s = int(machine_now.timestamp())
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "rollforward",
        "Rollforward-Letter": letter_id,
        "Rollforward-Time": str(time_s),
    }
    if settings.secret_file:
        headers["Rollforward-Signature"] = sign(read_secret(settings.secret_file), time_s, body)
    call(
        "POST",
        settings.url,
        body=body,
        headers=headers,
        timeout_s=settings.timeout_s,
        ca_file=settings.ca_file,
    )
