"""Secrets: what a file holds that nobody else can read, or what systemd keeps encrypted and hands to the service.

A name without a slash is looked for in the folder that systemd gives the service for its credentials
(`LoadCredentialEncrypted=`): on disk they are encrypted with a key of the machine. Any other is a path. A secret is
never shown, logged or put into an error.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from policies.errors import ConfigurationError
from storage.secrecy import leave_no_dumps

_VARIABLE: Final = "CREDENTIALS_DIRECTORY"
_BYTES_MAX: Final = 4096


def read_secret(named: str, environment: Mapping[str, str] = os.environ) -> str:
    """Read a secret.

    Args:
        named: path of its file, or the name of a credential.
        environment: variables.

    Returns:
        The secret: the file's first line.

    Raises:
        ConfigurationError: there is none, others can read it, or it is no line of text.
    """
    leave_no_dumps()
    path = Path(named)
    is_credential = "/" not in named
    if is_credential:
        folder = environment.get(_VARIABLE)
        if not folder:
            raise ConfigurationError(
                f"there is no credential {named!r}: systemd gave this process none",
                hint="Give a path, or start as the unit does that has LoadCredentialEncrypted= in it.",
            )
        path = Path(folder) / named
    try:
        with path.open("rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            text = file.read(_BYTES_MAX + 1) or b""
    except OSError as error:
        raise ConfigurationError(f"the secret cannot be read: {error.strerror}", path=str(path)) from error
    if not is_credential and stat.S_ISREG(status.st_mode) and status.st_mode & 0o077:
        raise ConfigurationError("others may read the secret", path=str(path), hint=f"chmod 600 {path}")
    line = text.decode(errors="replace").partition("\n")[0].rstrip("\r")
    if not line or len(text) > _BYTES_MAX or "\ufffd" in line or not line.isprintable():
        raise ConfigurationError("the secret is not a line of text", path=str(path))
    return line
