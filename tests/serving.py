"""Running servers for tests: in a thread of this process, or as the command itself."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import ssl
import subprocess
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path

from hsr.serving.haggling import Export
from hsr.serving.point import PointReader
from hsr.serving.server import NbdServer
from tests.command import PROGRAM


@contextlib.contextmanager
def server_in_thread(
    reader: PointReader, socket: Path, *, tls: ssl.SSLContext | None = None, handshake_s: float = 30
) -> Iterator[Path | tuple[str, int]]:
    """Serve on a Unix socket; with TLS, on a port. Gives the address; the server must end well."""
    address: Future[Path | tuple[str, int]] = Future()
    stop: Future[None] = Future()

    async def serve() -> None:
        server = NbdServer(
            reader,
            Export("D_VOL", "a test", reader.size_bytes, reader.block_bytes),
            tls,
            handshake_s=handshake_s,
        )
        if tls is None:
            await server.listen_on_socket(socket)
            address.set_result(socket)
        else:
            address.set_result(await server.listen_on_port("127.0.0.1", 0))
        await asyncio.wrap_future(stop)
        await server.close()

    failure: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:  # noqa: BLE001 - shown by the thread that waits
            failure.append(error)
            if not address.done():
                address.set_exception(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield address.result()
    finally:
        stop.set_result(None)
        thread.join()
    assert not failure, failure


@contextlib.contextmanager
def serving(folder: Path, volume: str, *options: str | Path) -> Iterator[str]:
    """Run `rollforward serve`; give its URI; it must end well when asked to."""
    command = [PROGRAM, "serve", str(folder), "--volume", volume, *map(str, options), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line, "the server did not start"
            yield json.loads(line)["uri"]
        finally:
            process.send_signal(signal.SIGTERM)
            process.stdout.read()
    assert process.returncode == 0


def make_certificates(folder: Path, names: Sequence[str] = ("server", "client")) -> None:
    """Make an authority and certificates as qemu's `tls-creds-x509` takes them, all for 127.0.0.1."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    openssl(
        "req", "-x509", *key, "-keyout", "ca-key.pem", "-out", "ca-cert.pem", "-subj", "/CN=a test authority"
    )
    for name in names:
        openssl("req", *key, "-keyout", f"{name}-key.pem", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (folder / f"{name}.cnf").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
        ca = ("-CA", "ca-cert.pem", "-CAkey", "ca-key.pem", "-CAcreateserial", "-days", "2")
        openssl(
            "x509", "-req", "-in", f"{name}.csr", *ca, "-out", f"{name}-cert.pem", "-extfile", f"{name}.cnf"
        )
