"""Errors as JSON values, so that one process can tell another what stood in its way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from policies.errors import (
    ChainError,
    ConfigurationError,
    FormatError,
    PasswordError,
    RestoreError,
    RollforwardError,
    SourceError,
    StorageError,
)

_ERRORS: Final[Mapping[str, type[RollforwardError]]] = {
    "configuration": ConfigurationError,
    "password": PasswordError,
    "format": FormatError,
    "chain": ChainError,
    "storage": StorageError,
    "source": SourceError,
    "restore": RestoreError,
}


def pack_error(error: RollforwardError) -> dict[str, str | None]:
    """Write what stood in the way as JSON values."""
    kind = next((word for word, kind in _ERRORS.items() if isinstance(error, kind)), "restore")
    return {"kind": kind, "reason": error.reason, "path": error.path, "hint": error.hint}


def unpack_error(packed: Mapping[str, str | None]) -> RollforwardError:
    """Read what `pack_error` wrote."""
    kind = _ERRORS.get(packed.get("kind") or "", RestoreError)
    return kind(
        packed.get("reason") or "no reason is known", path=packed.get("path"), hint=packed.get("hint")
    )
