"""From stored bytes to coded granules: nothing to do in a plain chain, decryption in an encrypted one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from policies.errors import FormatError, PasswordError
from storage import layout
from storage.digests import Buffer
from storage.overlay import Overlay

if TYPE_CHECKING:
    from storage.keys import ChainKey


class Decryption(Protocol):
    """Gives the coded granules of frames. Safe to share between threads."""

    def packed(self, record: np.void, stored: Buffer) -> Buffer:
        """Return the granules of a frame as they are coded.

        Args:
            record: a record of a window of the overlay: its origin counts through all layers.
            stored: the stored bytes, their digest checked.

        Raises:
            DigestMismatchError: they are not what was captured.
        """


def decryption_of(overlay: Overlay, key: ChainKey | None) -> Decryption:
    """Return what makes an overlay's frames readable, after a look at all that the key can prove before.

    Args:
        overlay: the images.
        key: the key of an encrypted chain; None of a plain one.

    Raises:
        PasswordError: the chain is encrypted, and there is no key.
        FormatError: the chain is not encrypted, but a key was given; or an image says something else than was
            captured.
    """
    path = str(overlay.layers[-1].path)
    if key is None:
        if overlay.encrypted:
            raise PasswordError("is encrypted: a password is needed", path=path)
        return _Plain()
    if not overlay.encrypted:
        raise FormatError("is not encrypted, though its chain is", path=path)
    from storage.seals import (
        check_seals,
    )  # late: cryptography takes a while to import, and plain chains do without

    for layer in overlay.layers:
        check_seals(layer, key)
    return _Keyed(overlay, key)


class _Plain:
    def packed(self, record: np.void, stored: Buffer) -> Buffer:
        del record
        return stored


class _Keyed:
    def __init__(self, overlay: Overlay, key: ChainKey) -> None:
        self._key = key
        self._captures = [capture for layer in overlay.layers for capture in layer.header.capture_ids]

    def packed(self, record: np.void, stored: Buffer) -> Buffer:
        if record["flags"] == layout.FRAME_ZERO:
            return stored
        return self._key.frame_cipher(self._captures[record["origin"]]).decrypt(record, stored)
