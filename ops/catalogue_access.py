"""How commands come at the agent's catalogue, whether the agent runs or not."""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    from ops.clock import Clock
    from ops.settings import Settings
    from storage.catalog.database import Catalog
    from storage.credentials import CredentialSeal

_Command = TypeVar("_Command", bound=Callable[..., None])


def state_option(command: _Command) -> _Command:
    """Add `--state` to a command."""
    return click.option(
        "--state",
        metavar="DIR",
        type=click.Path(file_okay=False),
        help="Private directory of the agent (/var/lib/rollforward for root, else in ~/.local/state).",
    )(command)


def json_option(words: str) -> Callable[[_Command], _Command]:
    """Add `--json` to a command.

    Args:
        words: what it prints then.
    """
    return click.option("--json", "as_json", is_flag=True, help=words)


@dataclass(frozen=True, slots=True)
class Desk:
    """What a command about the agent works with.

    Attributes:
        catalog: the catalogue, opened and of the present layout.
        clock: calendar time, that of the agent if it runs.
        settings: where everything is.
    """

    catalog: Catalog
    clock: Clock
    settings: Settings

    @property
    def seal(self) -> CredentialSeal:
        """What passwords of folders are sealed with."""
        from storage.credentials import KEY_FILE, CredentialSeal

        return CredentialSeal(self.settings.state_dir / KEY_FILE)


@contextmanager
def opened_desk(state: str | None) -> Iterator[Desk]:
    """Open the catalogue, made if there is none.

    Args:
        state: what `--state` says.

    Raises:
        ConfigurationError: a setting cannot be used.
        CatalogError: the catalogue cannot be used.

    Crash: the catalogue is as it was, or of the present layout.
    """
    from ops.agent_identity import settle_identity
    from ops.clock import parse_clock
    from ops.settings import Settings
    from ops.state_dir import clock_of_running_agent, make_state_dir, prepare_catalogue

    settings = Settings.from_environment(os.environ, state_dir=state)
    make_state_dir(settings.state_dir)
    clock = parse_clock(clock_of_running_agent(settings.state_dir) or settings.clock)
    catalog = prepare_catalogue(settings.catalogue_url)
    try:
        settle_identity(catalog, settings.state_dir, clock())
        yield Desk(catalog, clock, settings)
    finally:
        catalog.close()


def person() -> str:
    """Return who gives the command, as the log is to name them."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


def folder_path(text: Path) -> Path:
    """Return the one absolute path by which a folder is known: links followed, as far as they can be."""
    return Path(os.path.realpath(text))
