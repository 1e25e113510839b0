"""Credentials at rest: a user's name in the open, the password sealed with a key that lies outside the catalogue.

    v1 USER_BASE64 SEALED_BASE64          SEALED is nonce (12 bytes), then AES-256-GCM of the password, with its tag

The key file is private to the agent. Whoever gets hold of the catalogue alone, or of a copy of it, learns user names
and no password. What is sealed is bound to the place that it is for and to the user: moved into another row it does
not open.
"""

from __future__ import annotations

import base64
import binascii
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from policies.errors import ConfigurationError, StorageError
from storage.publish import sync_folder

KEY_FILE: Final = "credentials.key"
"""Name of the key file in the state directory."""

KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_VERSION: Final = "v1"
_HINT: Final = "Give the credentials anew, or put the key file back that they were sealed with."


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user and the password.

    Attributes:
        user: the user's name, perhaps with a domain before it.
        password: the password.
    """

    user: str
    password: bytes = field(repr=False)


class CredentialSeal:
    """Seals credentials, and opens them again.

    Args:
        key_file: holds the key; made when something is first sealed.
    """

    def __init__(self, key_file: Path) -> None:
        self._key_file = key_file

    def seal(self, credentials: Credentials, place: str) -> str:
        """Write credentials so that only this key opens them.

        Args:
            credentials: what to seal.
            place: what they are for, such as a folder's path.

        Returns:
            One line of ASCII.

        Raises:
            StorageError: the key file cannot be made or read.

        Crash: leaves a key file, or none; and perhaps a partial one, which is never used.
        """
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce = secrets.token_bytes(_NONCE_BYTES)
        bound = _bound_to(place, credentials.user)
        sealed = nonce + AESGCM(self._key(create=True)).encrypt(nonce, credentials.password, bound)
        return f"{_VERSION} {_encoded(credentials.user.encode())} {_encoded(sealed)}"

    def open(self, text: str, place: str) -> Credentials:
        """Read what `seal` wrote.

        Args:
            text: the line.
            place: what it is for.

        Raises:
            ConfigurationError: it was sealed with another key or for another place, or is damaged.
            StorageError: the key file cannot be read.
        """
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        user, sealed = _parts(text, place)
        nonce, rest = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            password = AESGCM(self._key(create=False)).decrypt(nonce, rest, _bound_to(place, user))
        except (InvalidTag, ValueError) as error:
            raise ConfigurationError(
                "the stored credentials do not open with this agent's key", path=place, hint=_HINT
            ) from error
        return Credentials(user, password)

    def _key(self, *, create: bool) -> bytes:
        try:
            if create and not self._key_file.exists():
                _make_key(self._key_file)
            key = self._key_file.read_bytes()
        except FileNotFoundError as error:
            raise ConfigurationError(
                "the key of stored credentials is gone", path=str(self._key_file), hint=_HINT
            ) from error
        except OSError as error:
            raise StorageError(
                f"the key of stored credentials cannot be used: {error.strerror}", path=str(self._key_file)
            ) from error
        if len(key) != KEY_BYTES:
            raise ConfigurationError(
                "is no key of stored credentials",
                path=str(self._key_file),
                expected=f"{KEY_BYTES} bytes",
                actual=f"{len(key)} bytes",
                hint=_HINT,
            )
        return key


def user_in(text: str) -> str:
    """Return whose credentials these are; takes no key.

    Args:
        text: what `CredentialSeal.seal` wrote.

    Raises:
        ConfigurationError: it is damaged.
    """
    return _parts(text, "the catalogue")[0]


def _parts(text: str, place: str) -> tuple[str, bytes]:
    try:
        version, user, sealed = text.split(" ")
        if version == _VERSION:
            return base64.b64decode(user, validate=True).decode(), base64.b64decode(sealed, validate=True)
    except (ValueError, binascii.Error):
        pass  # one answer for whatever is wrong with it
    raise ConfigurationError("the stored credentials cannot be read", path=place, hint=_HINT)


def _bound_to(place: str, user: str) -> bytes:
    return b"\0".join((b"rollforward credentials v1", place.encode(), user.encode()))


def _encoded(plain: bytes) -> str:
    return base64.b64encode(plain).decode("ascii")


def _make_key(path: Path) -> None:
    """Make the key file, whole or not at all; if another process was quicker, its key stays."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as stream:
            stream.write(secrets.token_bytes(KEY_BYTES))
            stream.flush()
            os.fsync(stream.fileno())
        with suppress(FileExistsError):
            os.link(partial, path)
    finally:
        partial.unlink()
    sync_folder(path.parent)
