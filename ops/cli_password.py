"""`rollforward password`: the passwords of an encrypted volume."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ops.passwords import PasswordSource, ask, password_option, read_password
from ops.show import plain, print_json
from policies.errors import ConfigurationError, PasswordError

if TYPE_CHECKING:
    from storage.header import ImageHeader
    from storage.key_area import KeyArea
    from storage.key_files import Unlocked
    from storage.key_repair import Mended

_Change = Callable[["Unlocked", bytes], "KeyArea"]

_FOLDER = click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
_VOLUME = click.option("--volume", required=True, help="Name of the volume.")
_BASE = click.option(
    "--base", type=click.IntRange(min=1), help="Only the chain of this base; all if not given."
)
_NEW = click.option(
    "--new-password-file", type=click.Path(path_type=Path), metavar="FILE", help="Holds the new password."
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object a chain.")


@click.group()
def password() -> None:
    """Change, add or remove the password of an encrypted volume.

    Only the key file beside the images, NAME-b001.spk, is written anew, in one step: no image changes, and an
    interruption leaves the old passwords or the new ones. Copies of the key file, and the copies of its slots that
    the images of before carry, still open with the passwords that were valid then: whoever may have both should not
    be trusted with new images either. Begin a new chain, with `rollforward capture --new-base`, to be rid of them.
    """


@password.command(
    epilog="""\b
Examples:
  rollforward password change /backup --volume DATA
  rollforward password change /backup --volume DATA --password-file old --new-password-file new
"""
)
@_FOLDER
@_VOLUME
@_BASE
@password_option
@_NEW
@_JSON
def change(
    folder: Path,
    volume: str,
    base: int | None,
    password_file: Path | None,
    new_password_file: Path | None,
    as_json: bool,
) -> None:
    """Put a new password in the place of the present one."""
    from storage.key_files import with_changed_password

    source = PasswordSource(password_file)
    _apply(folder, volume, base, source, _new(volume, new_password_file), with_changed_password, as_json)


@password.command(
    epilog="""\b
Example:
  rollforward password add /backup --volume DATA --new-password-file second
"""
)
@_FOLDER
@_VOLUME
@_BASE
@password_option
@_NEW
@_JSON
def add(
    folder: Path,
    volume: str,
    base: int | None,
    password_file: Path | None,
    new_password_file: Path | None,
    as_json: bool,
) -> None:
    """Add a password that opens the volume as well as the present one does."""
    from storage.key_files import with_password

    source = PasswordSource(password_file)
    _apply(folder, volume, base, source, _new(volume, new_password_file), with_password, as_json)


@password.command(
    epilog="""\b
Example:
  rollforward password remove /backup --volume DATA --password-file second
"""
)
@_FOLDER
@_VOLUME
@_BASE
@password_option
@_JSON
def remove(folder: Path, volume: str, base: int | None, password_file: Path | None, as_json: bool) -> None:
    """Remove the password that is given. The last one stays."""
    from storage.key_files import without_password

    def drop(opened: Unlocked, new: bytes) -> KeyArea:
        del new
        return without_password(opened)

    _apply(folder, volume, base, PasswordSource(password_file), None, drop, as_json)


@password.command(
    epilog="""\b
Example:
  rollforward password repair /backup --volume DATA
"""
)
@_FOLDER
@_VOLUME
@_BASE
@_JSON
def repair(folder: Path, volume: str, base: int | None, as_json: bool) -> None:
    """Mend damaged key slots, in images and key files. Needs no password.

    Each image of an encrypted volume has a copy of the key slots in its header. Where that is damaged, `verify` calls
    the image bad, though its contents may be good. It is mended in place from its own digest, from the key file, or
    from another image; nothing that the image's root covers is touched. Verify the image afterwards.
    """
    from storage.key_repair import mend_key_slots

    with _volume_lock(folder, volume):
        found = mend_key_slots(folder, volume, base)
    for mended in found:
        _tell_mended(mended, volume, as_json)
    if not found and not as_json:
        click.echo("All key slots are good.")
    sys.exit(1 if any(mended.source is None for mended in found) else 0)


def _tell_mended(mended: Mended, volume: str, as_json: bool) -> None:
    status = "damaged" if mended.source is None else "mended"
    if as_json:
        source = None if mended.source is None else str(mended.source)
        fields = {"path": str(mended.path), "kind": "keys", "volume": volume, "base": mended.base}
        print_json({**fields, "status": status, "source": source})
    elif mended.source is None:
        click.echo(
            f"{plain(mended.path)}: damaged still: no other copy fits. Fetch a good one from a replica."
        )
    else:
        taken = "" if mended.source == mended.path else f", from {plain(mended.source.name)}"
        click.echo(f"{plain(mended.path)}: mended{taken}")


def _new(volume: str, file: Path | None) -> Callable[[], bytes]:
    def get() -> bytes:
        return read_password(file) if file else ask(f"New password for {volume}", twice=True)

    return get


def _apply(
    folder: Path,
    volume: str,
    base: int | None,
    source: PasswordSource,
    new: Callable[[], bytes] | None,
    change_area: _Change,
    as_json: bool,
) -> None:
    """Change the key file of each encrypted chain of a volume.

    Chains are changed one after the other. Where that was interrupted, some are changed already: they are passed
    over when it is done again.

    Crash: each key file is the old or the new one, whole.
    """
    from storage.key_area import key_file_path
    from storage.key_files import save_key_file, unlock

    with _volume_lock(folder, volume):
        chains = _encrypted_chains(folder, volume, base)
        known, wanted = source.known(volume), new() if new else None
        refused: list[PasswordError] = []
        for number, images in chains.items():
            path = key_file_path(folder, volume, number)
            headers = list(images.values())
            try:
                opened = unlock(path, headers, known)
            except PasswordError as error:
                refused.append(error)
                if wanted is not None:
                    unlock(path, headers, wanted)
                continue
            _refuse_strangers(images, opened)
            area = change_area(opened, wanted or b"")
            save_key_file(path, area)
            _tell(path, volume, number, as_json)
    if len(refused) == len(chains):
        raise refused[0]


def _volume_lock(folder: Path, volume: str) -> AbstractContextManager[None]:
    from storage.publish import folder_lock

    return folder_lock(folder, f"{volume}.capture", f"a capture of {volume!r}, or a change of its password,")


def _refuse_strangers(images: dict[Path, ImageHeader], opened: Unlocked) -> None:
    """Make sure that the key is that of all images of the chain, before a new password is given to it."""
    from storage.seals import open_metadata

    for path, header in images.items():
        open_metadata(header, opened.key, str(path))


def _encrypted_chains(folder: Path, volume: str, base: int | None) -> dict[int, dict[Path, ImageHeader]]:
    """Return the headers of each encrypted chain's usable images."""
    from storage.folder import chains, scan_folder

    found: dict[int, dict[Path, ImageHeader]] = {}
    for (_, number), images in chains(scan_folder(folder, volume)).items():
        headers = {image.path: image.header for image in images if image.usable and image.header is not None}
        encrypted = {path: header for path, header in headers.items() if header.encrypted}
        if encrypted and base in (None, number):
            found[number] = encrypted
    if not found:
        raise ConfigurationError(
            f"holds no encrypted chain of {volume!r}" + (f" on base {base}" if base else ""), path=str(folder)
        )
    return found


def _tell(path: Path, volume: str, base: int, as_json: bool) -> None:
    if as_json:
        print_json({"path": str(path), "kind": "keys", "volume": volume, "base": base, "status": "written"})
        return
    click.echo(f"{plain(path)}: written")
