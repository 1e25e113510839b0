"""Whether a capture is to be encrypted, and with which key."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from policies.errors import ConfigurationError, FormatError, PasswordError, StorageError
from storage.header import ImageHeader
from storage.key_area import encode_key_area
from storage.key_files import Passwords, Unlocked, new_key, save_key_file, unlock
from storage.seals import seal_metadata


@dataclass(frozen=True, slots=True)
class CaptureKeys:
    """What a capture of an encrypted chain needs.

    Attributes:
        header: the capture's header, its metadata encrypted and with a copy of the key slots.
        path: the chain's key file.
        unlocked: the chain's key and slots.
        is_new: whether the chain begins with this capture.
    """

    header: ImageHeader
    path: Path
    unlocked: Unlocked
    is_new: bool

    def keep(self) -> None:
        """Write the key file of a new chain, or one that was lost or forged.

        Not being able to is no failure: the image carries a copy, and the next capture tries again.

        Crash: the key file is missing, and the copy in the header serves.
        """
        if self.is_new or self.unlocked.is_lost:
            with suppress(StorageError):
                save_key_file(self.path, self.unlocked.newest)


def keys_for_capture(
    header: ImageHeader,
    key_path: Path,
    images: Sequence[ImageHeader],
    *,
    encrypt: bool,
    passwords: Passwords | None,
) -> CaptureKeys | None:
    """Decide whether a capture is encrypted, and open the chain's key or draw a new one.

    Args:
        header: the capture's header, as for a plain one.
        key_path: the chain's key file, which may be missing.
        images: headers of the chain's images; none if it begins with this capture.
        encrypt: whether it has to be encrypted.
        passwords: asked when it is.

    Returns:
        The keys; None if the capture is plain.

    Raises:
        ConfigurationError: the chain is plain, though it has to be encrypted.
        PasswordError: the password is wrong or missing.
        FormatError: the chain has a key file, but its images are not encrypted; or what the password opens was forged.
        StorageError: the key file cannot be read.
    """
    encrypted = [image for image in images if image.encrypted]
    if images and not encrypted:
        if key_path.exists():
            raise FormatError(
                "belongs to images that are not encrypted: have they been exchanged?", path=str(key_path)
            )
        if encrypt:
            raise ConfigurationError(
                f"the chain of {header.volume!r} is not encrypted, and should be",
                path=str(key_path.parent),
                hint="Begin an encrypted one with --new-base --encrypt. Was it encrypted? Its images were exchanged.",
            )
        return None
    if not images and not encrypt:
        return None
    if passwords is None:
        raise PasswordError(
            f"the chain of {header.volume!r} is encrypted: a password is needed", path=str(key_path.parent)
        )
    if encrypted:
        unlocked = unlock(key_path, encrypted, passwords.known(header.volume))
    else:
        unlocked = new_key(header.chain_id, passwords.new(header.volume))
    with_slots = replace(header, key_area=encode_key_area(unlocked.newest))
    return CaptureKeys(seal_metadata(with_slots, unlocked.key), key_path, unlocked, not encrypted)
