"""Names of NBD exports: `nbd://HOST:PORT/EXPORT` and `nbd+unix:///EXPORT?socket=PATH`.

Source: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/uri.md
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, quote, unquote, urlsplit

from policies.errors import ConfigurationError

DEFAULT_PORT: Final = 10_809
_EXPORT_BYTES_MAX: Final = 4096
_SCHEMES: Final = ("nbd", "nbd+unix", "nbds", "nbds+unix")


@dataclass(frozen=True, slots=True)
class NbdUri:
    """An export and where its server listens.

    Attributes:
        address: a Unix socket, or (host, port).
        export: name of the export; mostly empty.
    """

    address: Path | tuple[str, int]
    export: str = ""

    def __str__(self) -> str:
        """Write it as one does on the command line."""
        if isinstance(self.address, Path):
            return f"nbd+unix:///{quote(self.export)}?socket={quote(str(self.address))}"
        host, port = self.address
        host = f"[{host}]" if ":" in host else host
        return f"nbd://{host}:{port}/{quote(self.export)}"


def is_nbd_uri(text: str) -> bool:
    """Tell whether somebody means an NBD export, and not a file."""
    return text.partition(":")[0].lower() in _SCHEMES and "://" in text


def parse_nbd_uri(text: str) -> NbdUri:
    """Read a URI.

    Raises:
        ConfigurationError: it is not as it should be, or asks for encryption.
    """
    try:
        parts = urlsplit(text)
        port = parts.port or DEFAULT_PORT
    except ValueError as error:
        raise _wrong(text, str(error)) from error
    if parts.scheme.startswith("nbds"):
        raise ConfigurationError(
            "an NBD export is not read over TLS",
            path=text,
            hint="Bring it here first, through a tunnel that encrypts (ssh -L, stunnel) or by a qemu-nbd of your own "
            "that reads it; then capture nbd://localhost:PORT/EXPORT.",
        )
    if parts.scheme not in _SCHEMES or parts.username is not None or parts.fragment:
        raise _wrong(text, "it is not of this form")
    export = unquote(parts.path.removeprefix("/"))
    if len(export.encode()) > _EXPORT_BYTES_MAX:
        raise _wrong(text, "the name of the export is too long")
    sockets = parse_qs(parts.query, keep_blank_values=True).get("socket", [])
    if parts.scheme == "nbd":
        if not parts.hostname or parts.query:
            raise _wrong(text, "it names no host" if not parts.hostname else "it names a socket, too")
        return NbdUri((parts.hostname, port), export)
    if parts.netloc or len(sockets) != 1 or not sockets[0]:
        raise _wrong(text, "it must name one socket, and no host")
    return NbdUri(Path(sockets[0]), export)


def _wrong(text: str, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"not a usable NBD export: {why}",
        path=text,
        hint="Write nbd://HOST:PORT/EXPORT or nbd+unix:///EXPORT?socket=PATH.",
    )
