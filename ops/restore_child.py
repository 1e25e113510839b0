"""A process that tests one restore for the agent, and says what it found.

It is told what to do on its standard input, since a password may be in that, and answers on its standard output: one
JSON object each. It is less urgent than the agent's other work. All that it starts ends with it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from hsr.testing_restore.order import Order
from ops.interruption import Interruption
from ops.logs import set_up_logging
from ops.machine_options import MachineWishes, disk_and_machine
from ops.tether import tethered
from policies.errors import FormatError, PasswordError, RollforwardError
from policies.packed_errors import pack_error
from storage.secrecy import leave_no_dumps

if TYPE_CHECKING:
    from hsr.serving.point import PointReader
    from hsr.testing_restore.record import RestoreTest
    from storage.keys import ChainKey

_log = structlog.get_logger("restore test")

_MEMORY_MIB: Final = 2048
_PROCESSORS: Final = 2
_LESS_URGENT: Final = 5
"""By so much, as `nice` counts: with less of the processors a guest that starts well might be found late."""


def main() -> None:
    """Do as the order says, and answer."""
    leave_no_dumps()
    os.nice(_LESS_URGENT)
    set_up_logging("json", stream=sys.stderr)
    order = Order.unpacked(json.load(sys.stdin))
    _give_away_nothing()
    with Interruption():
        answer = _answer(order)
    json.dump(answer, sys.stdout)
    sys.stdout.flush()


def _give_away_nothing() -> None:
    """Have the programs that look at what is in a backup inherit nothing of the order: a password may be in it."""
    nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(nothing, 0)
    os.close(nothing)


def _answer(order: Order) -> Mapping[str, object]:
    begun_s = time.monotonic()
    try:
        found = _tested(order)
    except RollforwardError as error:
        return {"error": pack_error(error)}
    return {
        "verdict": found.verdict.value,
        "words": found.summary,
        "seconds": time.monotonic() - begun_s,
        "lacking": found.lacking,
        "screenshot": _kept(order, found),
        "facts": found.fields(),
    }


def _tested(order: Order) -> RestoreTest:
    from hsr.serving.memory import default_cache_bytes
    from hsr.serving.point import PointReader
    from hsr.testing_restore.file_systems import check_file_systems
    from hsr.testing_restore.record import RestoreTest
    from hsr.testing_restore.starting import Waiting, start_and_look

    tested_at = datetime.now(UTC)
    waiting = Waiting(order.marker)
    with PointReader(order.images, default_cache_bytes(), key=_key(order)) as reader:
        _refuse_others(reader, order)
        file_systems = check_file_systems(reader, tethered)
        start, why_not = None, None
        if order.starts and not order.insists and not _says_that_it_starts(reader):
            why_not = "nothing says that it starts"
        elif order.starts:
            wishes = MachineWishes(order.wrap, _MEMORY_MIB, _PROCESSORS, order.bus, None, None)
            disk, machine = disk_and_machine(reader, wishes)
            start = start_and_look(disk, machine, waiting, tethered)
    return RestoreTest(order.point_id, tested_at, file_systems, start, why_not)


def _refuse_others(reader: PointReader, order: Order) -> None:
    """Make sure that what was opened is what was verified, and leads to the point.

    Raises:
        FormatError: an image is another one.
    """
    for path, found, expected in zip(order.images, reader.roots, order.roots, strict=True):
        if found != expected:
            raise FormatError("is not the image that was verified", path=str(path))
    if reader.header.end.id != order.point_id:
        raise FormatError("leads to another point", path=str(order.images[-1]))


def _says_that_it_starts(reader: PointReader) -> bool:
    from hsr.wrapping.contents import has_efi_system, is_startable
    from hsr.wrapping.wrapped_point import read_start

    start = read_start(reader)
    return is_startable(start) or has_efi_system(start)


def _key(order: Order) -> ChainKey | None:
    """Return the key of the chain; None if it is plain.

    Raises:
        PasswordError: the password is wrong, or there is none.
    """
    from policies.names import parse_image_name
    from storage.folder import look_at
    from storage.key_area import key_file_path
    from storage.key_files import unlock

    names = [(image, parse_image_name(image.name)) for image in order.images]
    headers = [look_at(image, name).header for image, name in names if name is not None]
    encrypted = [header for header in headers if header is not None and header.encrypted]
    if not encrypted:
        return None
    if order.password is None:
        raise PasswordError(
            f"{order.images[0].name} is encrypted, and the job has no password",
            hint="rollforward hsr password",
        )
    path = key_file_path(order.images[0].parent, order.volume, order.base)
    return unlock(path, encrypted, order.password, for_reading=True).key


def _kept(order: Order, found: RestoreTest) -> str | None:
    """Keep the last screen; return where. What was found does not depend on it.

    Crash: none, or the whole picture, and perhaps a `.new` file that the next one replaces.
    """
    if found.start is None or not found.start.screenshot:
        return None
    path = Path(order.shot)
    partial = path.with_suffix(".new")
    try:
        partial.write_bytes(found.start.screenshot)
        partial.replace(path)
    except OSError as error:
        _log.warning("the screenshot is not kept", path=str(path), reason=error.strerror or str(error))
        return None
    return str(path)


if __name__ == "__main__":
    main()
