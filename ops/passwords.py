"""Passwords: from a file, from the file that the environment names, or typed in. Never from the command line itself.

The order is: `--password-file`, then ROLLFORWARD_PASSWORD_FILE, then a prompt where somebody sits at a terminal.
A password is never shown, logged or put into an error.
"""

from __future__ import annotations

import codecs
import os
import stat
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import click

from policies.errors import ConfigurationError, FormatError, PasswordError
from storage.secrecy import leave_no_dumps

if TYPE_CHECKING:
    from storage.chain import Chain
    from storage.keys import ChainKey

VARIABLE: Final = "ROLLFORWARD_PASSWORD_FILE"
_BYTES_MAX: Final = 1024

_Command = TypeVar("_Command", bound=Callable[..., None])


def password_option(command: _Command) -> _Command:
    """Add `--password-file` to a command."""
    return click.option(
        "--password-file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help=f"Holds the password of an encrypted volume; {VARIABLE} may name one, too.",
    )(command)


class PasswordSource:
    """Where a command takes passwords from, when it needs one. What is typed in is asked for once a volume.

    Args:
        file: what `--password-file` says.
    """

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self._typed: dict[str, bytes] = {}
        self._read: bytes | None = None

    @property
    def given(self) -> Path | None:
        """The file to read, if one is named at all."""
        named = os.environ.get(VARIABLE)
        return self.file or (Path(named) if named else None)

    def known(self, volume: str) -> bytes:
        """Return the password of a volume that has one.

        Raises:
            PasswordError: nobody is there to ask.
            ConfigurationError: the file cannot be used.
        """
        return self._get(volume, f"Password of {volume}", twice=False)

    def new(self, volume: str) -> bytes:
        """Return the password for a volume that is to get one; raises as `known` does."""
        return self._get(volume, f"New password for {volume}", twice=True)

    def _get(self, volume: str, words: str, *, twice: bool) -> bytes:
        if self.given is not None:
            if self._read is None:  # once: a pipe gives it only once
                self._read = read_password(self.given)
            return self._read
        if volume not in self._typed:
            self._typed[volume] = ask(words, twice=twice)
        return self._typed[volume]

    def ask_before_capture(self, folder: Path, volume: str, *, begins: bool, encrypt: bool) -> None:
        """Have the password typed in that a capture is going to need, before its progress is shown.

        Args:
            folder: the managed folder.
            volume: name of the volume.
            begins: whether a new chain is asked for.
            encrypt: whether it is to be encrypted.

        Raises:
            PasswordError: nobody is there to ask.
            FormatError: an image is plain, though the volume is encrypted.
            StorageError: the folder cannot be read.
        """
        if self.given is not None:
            return
        from storage.folder import bases_with_key, refuse_plain_in_encrypted, scan_folder

        images = scan_folder(folder, volume)
        if not begins:
            newest = max((image.name.base for image in images), default=0)
            refuse_plain_in_encrypted(image for image in images if image.name.base == newest)
        headers = [image.header for image in images if image.header is not None]
        encrypted = any(header.encrypted for header in headers) or bool(
            bases_with_key(folder, volume, images)
        )
        if encrypted and images and not begins:
            self.known(volume)
        elif encrypted or (encrypt and (begins or not headers)):
            self.new(volume)


def ask(words: str, *, twice: bool) -> bytes:
    """Have a password typed in.

    Args:
        words: what is asked for.
        twice: have it typed again, to be sure.

    Raises:
        PasswordError: nobody sits at a terminal.
    """
    if sys.stdin is None or not sys.stdin.isatty():
        raise PasswordError(
            "a password is needed, and there is no terminal to ask at",
            hint=f"Name a file that holds it, with --password-file or in {VARIABLE}.",
        )
    leave_no_dumps()
    typed: str = click.prompt(words, hide_input=True, confirmation_prompt=twice, err=True)
    return normal_password(typed.encode(errors="surrogateescape"))


def read_password(path: Path) -> bytes:
    """Read a password: all of the file but a line end after it, and the mark that some editors put before UTF-8.

    From then on, the process leaves no core dumps.

    Args:
        path: a file that others may not read, or a pipe.

    Raises:
        ConfigurationError: it cannot be read, is open to everybody, empty or far too long.
    """
    leave_no_dumps()
    try:
        with path.open("rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            if stat.S_ISREG(mode) and mode & stat.S_IRWXO:
                raise ConfigurationError(
                    "is a password file that everybody may read or write",
                    path=str(path),
                    hint=f"chmod 600 {path}",
                )
            content = stream.read(len(codecs.BOM_UTF8) + _BYTES_MAX + 2)
    except OSError as error:
        raise ConfigurationError(
            f"cannot be read as a password file: {error.strerror}", path=str(path)
        ) from error
    password = content.removeprefix(codecs.BOM_UTF8).removesuffix(b"\n").removesuffix(b"\r")
    if not password:
        raise ConfigurationError("is empty: it should hold a password", path=str(path))
    if len(password) > _BYTES_MAX:
        raise ConfigurationError(f"holds more than {_BYTES_MAX:,} bytes: is it a password?", path=str(path))
    return normal_password(password)


def normal_password(password: bytes) -> bytes:
    """Bring a password into the one form in which it counts: composed characters (NFC), where it is UTF-8."""
    try:
        return unicodedata.normalize("NFC", password.decode()).encode()
    except UnicodeDecodeError:
        return password


def key_of(chain: Chain, source: PasswordSource, *, insist: bool = True) -> ChainKey | None:
    """Return the key of a chain, asking for the password if it takes one.

    Args:
        chain: the chain.
        source: where passwords come from.
        insist: whether a password file that is named on the command line has to fit.

    Returns:
        The key; None of a plain chain.

    Raises:
        PasswordError: the password is wrong, or there is none.
        ConfigurationError: a password file was named, but the chain is plain; or the file cannot be used.
        FormatError: the chain has a key file, but none of its images is encrypted.
    """
    from storage.key_area import key_file_path

    headers = [image.header for image in chain.images if image.usable and image.header is not None]
    encrypted = [header for header in headers if header.encrypted]
    path = key_file_path(chain.folder, chain.volume, chain.base)
    if encrypted:
        from storage.key_files import unlock

        return unlock(path, encrypted, source.known(chain.volume), for_reading=True).key
    if headers and path.exists():
        raise FormatError(
            "belongs to images that are not encrypted: have they been exchanged?", path=str(path)
        )
    if headers and insist and source.file is not None:
        raise ConfigurationError(
            f"holds a chain of {chain.volume!r} that is not encrypted: a password does not fit",
            path=str(chain.folder),
            hint="If it should be encrypted, its images have been exchanged. Otherwise leave --password-file out.",
        )
    return None


class FolderKeys:
    """Keys of the chains of some folders; each is asked for once.

    Args:
        source: where passwords come from.
    """

    def __init__(self, source: PasswordSource) -> None:
        self._source = source
        self._keys: dict[tuple[Path, str, int], ChainKey | None] = {}

    def of_image(self, path: Path) -> ChainKey | None:
        """Return the key of the chain that an image's name puts it into; None if that is plain.

        Raises:
            PasswordError: the password is wrong, or there is none.
            ConfigurationError: the password file cannot be used.
            FormatError: the chain has a key file, but none of its images is encrypted.
            StorageError: the folder cannot be read.
        """
        from policies.names import parse_image_name
        from storage.chain import Chain
        from storage.folder import chains, scan_folder

        name = parse_image_name(path.name)
        if name is None:
            return None
        place = (path.parent, name.volume, name.base)
        if place not in self._keys:
            images = chains(scan_folder(path.parent, name.volume)).get((name.volume, name.base), ())
            chain = Chain(path.parent, name.volume, name.base, images)
            self._keys[place] = key_of(chain, self._source, insist=False)
        return self._keys[place]
