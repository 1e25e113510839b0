"""The agent's private directory: made, kept from strangers, and what it tells of an agent that runs on it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from policies.errors import ConfigurationError

if TYPE_CHECKING:
    from storage.catalog.database import Catalog

LOCK_NAME: Final = "agent.lock"
"""Held by the agent as long as it runs; its lines are the process, the agent's clock, and the process in full."""


def make_state_dir(state_dir: Path) -> None:
    """Make the directory, if it is not there.

    Raises:
        ConfigurationError: it cannot be made, or others may write in it.

    Crash: it is there or not.
    """
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = state_dir.stat()
    except OSError as error:
        raise unusable(state_dir, error) from error
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
        raise ConfigurationError(
            "others may write in the state directory",
            path=str(state_dir),
            hint="Make it your own with chown and chmod 700, or choose another with --state.",
        )


def unusable(state_dir: Path, error: OSError) -> ConfigurationError:
    """Return the error that says why the directory cannot be used."""
    return ConfigurationError(
        f"the state directory cannot be used: {error.strerror}",
        path=str(state_dir),
        hint="Choose another with --state, or set ROLLFORWARD_STATE.",
    )


def prepare_catalogue(url: str) -> Catalog:
    """Open the catalogue, made if there is none, and bring it to the present layout.

    Args:
        url: where it is.

    Returns:
        The catalogue; the caller closes it.

    Raises:
        ConfigurationError: the URL is none.
        CatalogError: it cannot be used.

    Crash: it is as before, or of the present layout.
    """
    from storage.catalog.database import Catalog

    catalog = Catalog(url)
    if catalog.path is not None:
        _make_private(catalog.path)
    catalog.prepare()
    return catalog


def clock_of_running_agent(state_dir: Path) -> str | None:
    """Tell which clock an agent that runs here goes by.

    Args:
        state_dir: the agent's directory.

    Returns:
        The clock as `clock.parse_clock` reads it; None if no agent runs.
    """
    from storage.catalog.holders import Holder

    try:
        lines = (state_dir / LOCK_NAME).read_text(errors="replace").splitlines()
        _, clock, holder = lines[:3]
        return None if Holder.parse(holder).is_gone() else clock
    except (OSError, ValueError):  # there is no agent, or it begins just now
        return None


def _make_private(catalogue: Path) -> None:
    """Make the catalogue's file, readable by nobody else; SQLite gives the files beside it the same mode."""
    with suppress(OSError):  # there already; or what is in the way is said by whoever opens it next
        os.close(os.open(catalogue, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
