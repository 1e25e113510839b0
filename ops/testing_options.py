"""The options by which commands are told how the disks of a HeadStart job are tested."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TypeVar, cast

import click

from ops.machine_options import BUSES
from policies.errors import ConfigurationError
from policies.restore_tests import MARKER_MAX, SATA, RestoreTesting, Rhythm, can_mark

_Command = TypeVar("_Command", bound=Callable[..., None])


def testing_options(prefix: str, rhythm: str, *, required: bool) -> Callable[[_Command], _Command]:
    """Add options to a command, which gets `testing`.

    Args:
        prefix: of the names of those that say how: "test-" for `--test-boot` and the like.
        rhythm: name of the one that says how often.
        required: whether that has to be given; never, if it is not.
    """

    def add(command: _Command) -> _Command:
        @wraps(command)
        def gathered(
            *, rhythm: str, starts: bool, marker: str | None, bus: str | None, **others: object
        ) -> None:
            wanted = _checked(rhythm, checked_marker(f"--{prefix}marker", marker), bus, starts=starts)
            command(testing=wanted, **others)

        options = (
            click.option(
                rhythm,
                "rhythm",
                type=click.Choice([word.value for word in Rhythm]),
                required=required,
                default=None if required else Rhythm.NEVER.value,
                show_default=not required,
                help="How often a restore of the point where a disk stands is tested.",
            ),
            click.option(
                f"--{prefix}boot",
                "starts",
                is_flag=True,
                help="In a test, start it, too, on a machine without a network.",
            ),
            click.option(
                f"--{prefix}marker",
                "marker",
                metavar="WORDS",
                help="On its serial console: they say that it is up.",
            ),
            click.option(
                f"--{prefix}bus",
                "bus",
                type=click.Choice(BUSES),
                help=f"What its disk hangs on; {SATA} if not given.",
            ),
        )
        made = cast("_Command", gathered)
        for option in reversed(options):
            made = option(made)
        return made

    return add


def _checked(rhythm: str, marker: str | None, bus: str | None, *, starts: bool) -> RestoreTesting:
    """Read what was typed in.

    Raises:
        ConfigurationError: it does not go together.
    """
    wanted = RestoreTesting(Rhythm(rhythm), starts, marker, bus or SATA)
    if wanted.rhythm is Rhythm.NEVER and (starts or marker is not None or bus is not None):
        raise ConfigurationError("how to test is said, and not how often", path="the command line")
    if not starts and (marker is not None or bus is not None):
        raise ConfigurationError("marker and bus are for a point that is started", path="the command line")
    return wanted


def checked_marker(option: str, marker: str | None) -> str | None:
    """Return a marker that was typed in, or None if none was.

    Args:
        option: what it was given to, for the message.
        marker: the words.

    Raises:
        ConfigurationError: it cannot be one.
    """
    if marker is not None and not can_mark(marker):
        raise ConfigurationError(
            f"{marker!r} is no marker",
            path=option,
            expected=f"1 to {MARKER_MAX} letters that can be seen",
            hint="Name words that the guest writes on its serial console once it is up, such as 'login:', "
            "or leave the option out: then its screen has to settle.",
        )
    return marker
