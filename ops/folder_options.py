"""The options by which `folder add` and `folder set` are told what a folder is to be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    from ops.config_document import FolderEntry, Login

_Command = TypeVar("_Command", bound=Callable[..., None])


@dataclass(frozen=True, slots=True)
class FolderWishes:
    """What is wished of a folder; None leaves it as it is.

    Attributes:
        assignments: settings, each as SECTION.NAME=VALUE.
        unset: settings or sections that are to follow the agent again.
        description: words on it.
        time_zone: IANA name.
        sort_priority: 0 to 255, or off.
        user: whose credentials open it, or off.
        password_file: holds the password of that user.
    """

    assignments: tuple[str, ...]
    unset: tuple[str, ...]
    description: str | None
    time_zone: str | None
    sort_priority: str | None
    user: str | None
    password_file: Path | None

    def applied_to(self, entry: FolderEntry) -> FolderEntry:
        """Return what the folder is to be.

        Args:
            entry: what it is.

        Raises:
            ConfigurationError: what is wished cannot be; field, value and range are named.
            PasswordError: a password is needed, and nobody is there to ask.
        """
        from ops.setting_rows import changed_layer
        from ops.settings import checked_zone

        zone = None if self.time_zone is None else checked_zone(self.time_zone)
        return replace(
            entry,
            description=entry.description if self.description is None else _description(self.description),
            time_zone=zone or entry.time_zone,
            sort_priority=entry.sort_priority
            if self.sort_priority is None
            else _priority(self.sort_priority),
            login=self._login(entry),
            settings=changed_layer(entry.settings, self.assignments, self.unset),
        )

    def _login(self, entry: FolderEntry) -> Login | None:
        from ops.login_options import typed_login

        user = self.user
        if user is None:
            if self.password_file is None:
                return entry.login
            if entry.login is None:
                raise click.UsageError("--password-file needs --user.")
            user = entry.login.user
        return None if user == "off" else typed_login(user, self.password_file)


def folder_options(command: _Command) -> _Command:
    """Add the options to a command; it takes them as keyword arguments of `FolderWishes`."""
    options = (
        click.option("--description", metavar="WORDS", help='What the folder is; "" for nothing.'),
        click.option(
            "--time-zone", metavar="ZONE", help="Days, weeks and months follow it, e.g. Europe/Berlin."
        ),
        click.option("--sort-priority", metavar="0-255|off", help="Small numbers come first. Default: off."),
        click.option("--user", metavar="USER|off", help="Keep credentials: whose. off: the agent's."),
        click.option(
            "--password-file",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Holds that user's password; asked for if not given.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _description(words: str) -> str:
    from ops.config_document import description_fault

    _refuse(description_fault(words))
    return words


def _priority(words: str) -> int | None:
    from ops.config_document import priority_fault

    if words == "off":
        return None
    number = int(words) if words.isascii() and words.isdecimal() and len(words) < 10 else None
    fault = priority_fault(words if number is None else number)
    _refuse(f"{fault}, or off" if fault else None)
    return number


def _refuse(fault: str | None) -> None:
    from policies.errors import ConfigurationError

    if fault is not None:
        raise ConfigurationError(fault, path="the command line")
