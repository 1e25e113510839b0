"""`rollforward serve`."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
import ssl
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import click

from ops.address_type import AddressType
from ops.logs import set_up_logging
from ops.machine_options import wrap_option
from ops.point_options import ChosenPoint, choose_point, point_options
from ops.show import plain, print_json
from policies.errors import ConfigurationError

if TYPE_CHECKING:
    from hsr.serving.server import NbdServer


@click.command(
    epilog="""\b
Examples:
  rollforward serve /backup --volume DATA --point 17 --socket /run/me/data.sock
  rollforward serve /backup --volume DATA --at "2026-11-20 08:00" --listen 127.0.0.1:10809
  rollforward serve /backup --volume C_VOL --wrap gpt --socket /run/me/c.sock
  rollforward serve /backup --volume DATA --listen 0.0.0.0:10809 --tls-certificates /etc/pki/qemu

\b
What reads it:
  qemu-img convert "nbd+unix:///?socket=/run/me/data.sock" data.qcow2
  qemu-img create -f qcow2 -F raw -b "nbd+unix:///?socket=/run/me/data.sock" overlay.qcow2
  nbdcopy "nbd+unix:///?socket=/run/me/data.sock" data.raw
"""
)
@point_options
@wrap_option
@click.option(
    "--socket", type=click.Path(path_type=Path), help="Listen on a Unix socket of this name (mode 0600)."
)
@click.option(
    "--listen", type=AddressType(), help="Listen on a TCP port; 0 means any. Loopback only, unless with TLS."
)
@click.option(
    "--tls-certificates",
    "certificates",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with ca-cert.pem, server-cert.pem and server-key.pem; clients need a certificate, too.",
)
@click.option(
    "--cache",
    "cache_mib",
    type=click.IntRange(min=1),
    metavar="MIB",
    help="Memory for decoded blocks, in MiB. A sixteenth of what is available, at most 1,024, by default.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object when ready, and log JSON lines.")
def serve(
    folder: Path,
    volume: str,
    point: int | None,
    at: datetime | None,
    base: int | None,
    without: tuple[str, ...],
    password_file: Path | None,
    wrap: str,
    socket: Path | None,
    listen: tuple[str, int] | None,
    certificates: Path | None,
    cache_mib: int | None,
    as_json: bool,
) -> None:
    """Serve a point in time as a read-only disk over NBD, straight from its images, until Ctrl-C.

    Without --socket and --listen, it listens on a new Unix socket that only this user may use, and says which.
    Every block is checked before it is served: what is damaged reads as an error, all else goes on. The images stay
    open, so they can be read to the end even if they are removed meanwhile.
    """
    if socket is not None and listen is not None:
        raise click.UsageError("Give --socket or --listen, not both.")
    from hsr.serving.server import tls_context

    _check_address(listen, certificates)
    tls = None if certificates is None else tls_context(certificates)
    chosen = choose_point(folder, volume, point, at, base, without, password_file)
    set_up_logging("json" if as_json else "text")
    with _place(socket, listen) as where:
        asyncio.run(_serve(chosen, wrap, where, tls, cache_mib, as_json))


def _check_address(listen: tuple[str, int] | None, certificates: Path | None) -> None:
    if listen is not None and certificates is None and not ipaddress.ip_address(listen[0]).is_loopback:
        raise ConfigurationError(
            "is not a loopback address: whoever reaches it could read the volume",
            path=listen[0],
            hint="Say --tls-certificates, or listen on 127.0.0.1 or a Unix socket.",
        )


@contextlib.contextmanager
def _place(socket: Path | None, listen: tuple[str, int] | None) -> Iterator[Path | tuple[str, int]]:
    """Give the place to listen on; a socket is taken away afterwards."""
    if listen is not None:
        yield listen
        return
    with contextlib.ExitStack() as stack:
        if socket is None:
            from storage.scratch import scratch_folder

            socket = stack.enter_context(scratch_folder("serve")) / "nbd.sock"
        yield socket
        socket.unlink(missing_ok=True)


async def _serve(
    chosen: ChosenPoint,
    wrap: str,
    where: Path | tuple[str, int],
    tls: ssl.SSLContext | None,
    cache_mib: int | None,
    as_json: bool,
) -> None:
    from hsr.serving.haggling import Export
    from hsr.serving.memory import default_cache_bytes
    from hsr.serving.point import PointReader
    from hsr.serving.server import NbdServer
    from hsr.wrapping.wrapped_point import disk_at
    from hsr.wrapping.wrapping import Wrap

    cache_bytes = default_cache_bytes() if cache_mib is None else cache_mib << 20
    with PointReader(chosen.images, cache_bytes, key=chosen.key) as reader:
        disk = disk_at(reader, Wrap(wrap))
        export = Export(chosen.chain.volume, chosen.words, disk.size_bytes, disk.block_bytes)
        server = NbdServer(disk, export, tls)
        asked = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, asked.set)
        try:
            uri = await _listen(server, where, tls)
            if as_json:
                print_json(
                    {"path": uri, "kind": "serve", "status": "serving"} | chosen.fields() | {"uri": uri}
                )
            else:
                click.echo(f"Serving {plain(chosen.words)} at {uri}\nCtrl-C ends it.")
            await asked.wait()
        finally:
            await server.close()


async def _listen(server: NbdServer, where: Path | tuple[str, int], tls: ssl.SSLContext | None) -> str:
    if isinstance(where, Path):
        await server.listen_on_socket(where)
        return f"nbd{'s' if tls else ''}+unix:///?socket={quote(str(where.absolute()))}"
    host, port = await server.listen_on_port(*where)
    return f"nbd{'s' if tls else ''}://{f'[{host}]' if ':' in host else host}:{port}"
