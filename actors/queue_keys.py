"""Names of our own keys in Redis, beside those of the broker."""

from __future__ import annotations


def why_key(namespace: str, message_id: str) -> str:
    """Name the key that tells why a message failed.

    Args:
        namespace: prefix of the agent's keys.
        message_id: the message's key in its queue.
    """
    return f"{namespace}:__why__.{message_id}"
