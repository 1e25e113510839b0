"""Waiting for a database server that starts later than the agent."""

from __future__ import annotations

import time
from typing import Final

import structlog
from sqlalchemy import select

from ops.sd_notify import tell_systemd
from policies.errors import CatalogError
from storage.catalog.database import Catalog

_log = structlog.get_logger("agent")

_AGAIN_S: Final = 1.0
_SAY_AGAIN_S: Final = 60.0


def wait_for_catalogue(url: str) -> None:
    """Wait until the server of the catalogue answers, and say what is waited for. A catalogue in a file is there.

    Args:
        url: where the catalogue is kept.

    Raises:
        ConfigurationError: it is no such address.
    """
    catalog = Catalog(url)
    said_at = 0.0
    try:
        while catalog.path is None and (problem := _problem(catalog)) is not None:
            if not said_at or time.monotonic() - said_at > _SAY_AGAIN_S:
                said_at = time.monotonic()
                _log.warning("waits for the catalogue's server", reason=problem.message, path=problem.path)
                tell_systemd("STATUS=waits for the catalogue's server")
            time.sleep(_AGAIN_S)
    finally:
        catalog.close()


def _problem(catalog: Catalog) -> CatalogError | None:
    try:
        with catalog.read() as session:
            session.execute(select(1))
    except CatalogError as error:
        return error
    return None
