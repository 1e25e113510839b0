"""The errors that rollforward raises on purpose.

    RollforwardError
    ├── ConfigurationError        a setting, an argument or the environment is wrong      exit 2
    ├── FormatError               a file is not a good image                              exit 3
    │   ├── NotAnImageError           it has no magic bytes of ours
    │   │   └── ForeignContainerError     it is in ShadowProtect's own container
    │   ├── UnsupportedVersionError   a later version of the format, or an unknown feature
    │   ├── TruncatedError            it ends too early
    │   └── DigestMismatchError       bytes differ from what was written
    ├── ChainError                images do not fit together                              exit 4
    │   ├── MissingPointError         no such point, or no way to it
    │   ├── ForkError                 more than one line of ancestry fits
    │   └── GeometryError             block geometry differs within a chain
    ├── SourceError               a volume cannot be read as it should                    exit 5
    ├── RestoreError              a target cannot be written                              exit 6
    ├── StorageError              the folder's medium refuses (full, read-only, I/O)      exit 7
    ├── BusyError                 somebody else is at it                                  exit 8
    │   └── OwnershipError            another agent looks after the folder
    ├── CatalogError              the catalogue is unusable                               exit 9
    │   └── CatalogAwayError          its server does not answer
    ├── PasswordError             a password is missing or wrong                          exit 10
    ├── DeliveryError             a notice could not be handed over                       exit 11
    └── QueueError                the queues cannot be reached                            exit 12

Each carries what, where and what to do: a message, fields, a separate hint, a stable exit code and whether
trying again by itself can help. Expected outcomes are values, never exceptions.
"""

from __future__ import annotations

from typing import ClassVar


class RollforwardError(Exception):
    """Root of the tree.

    Args:
        message: what is wrong, in words for the administrator.
        path: the file, device or folder concerned.
        offset: byte offset in it, if one is known.
        expected: what should have been there.
        actual: what was there.
        hint: what to do about it.
    """

    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        path: str | None = None,
        offset: int | None = None,
        expected: object = None,
        actual: object = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.path = path
        self.offset = offset
        self.expected = expected
        self.actual = actual
        self.hint = hint

    @property
    def reason(self) -> str:
        """What is wrong, what was expected and at which byte, on one line; the path and the hint stay apart."""
        text = self.message
        known = [
            f"{word} {value}"
            for word, value in (("expected", self.expected), ("found", self.actual))
            if value is not None
        ]
        if known:
            text += f" ({', '.join(known)})"
        if self.offset is not None:
            text += f" at byte {self.offset:,}"
        return text

    def __str__(self) -> str:
        """Say where, what, and what was expected, on one line; the hint stays apart."""
        return f"{self.path}: {self.reason}" if self.path else self.reason


class ConfigurationError(RollforwardError):
    """A setting, an argument or the environment is wrong."""

    exit_code = 2


class FormatError(RollforwardError):
    """A file is not a good image."""

    exit_code = 3


class NotAnImageError(FormatError):
    """A file does not begin as an image of ours does."""


class ForeignContainerError(NotAnImageError):
    """A file is in ShadowProtect's own container: looked after by its name, never read."""


class UnsupportedVersionError(FormatError):
    """An image uses a later version of the format, or a feature that this version does not know."""


class TruncatedError(FormatError):
    """A file ends before it should."""


class DigestMismatchError(FormatError):
    """Bytes differ from those that were written."""


class ChainError(RollforwardError):
    """Images do not fit together."""

    exit_code = 4


class MissingPointError(ChainError):
    """There is no such point, or no gapless way to it."""


class ForkError(ChainError):
    """More than one line of ancestry fits what was asked for."""


class GeometryError(ChainError):
    """Block geometry differs within a chain."""


class SourceError(RollforwardError):
    """A volume cannot be read as it should be."""

    exit_code = 5


class RestoreError(RollforwardError):
    """A restore target cannot be written."""

    exit_code = 6


class StorageError(RollforwardError):
    """The medium under a folder refuses: full, read-only, failing."""

    exit_code = 7
    retryable = True


class BusyError(RollforwardError):
    """Somebody else holds what is needed."""

    exit_code = 8
    retryable = True


class OwnershipError(BusyError):
    """A folder is looked after by the agent of another catalogue, or nobody can tell by whom."""

    retryable = False


class CatalogError(RollforwardError):
    """The catalogue cannot be used."""

    exit_code = 9
    retryable = True


class CatalogAwayError(CatalogError):
    """The catalogue's server does not answer; whether a transaction that was to end just then did is not known."""


class PasswordError(RollforwardError):
    """A password is missing, or opens nothing; no file is damaged by what is known."""

    exit_code = 10


class DeliveryError(RollforwardError):
    """A notice could not be handed over to a mail server or a web address."""

    exit_code = 11
    retryable = True


class QueueError(RollforwardError):
    """Redis, which carries hints, cannot be reached; what is due waits in the catalogue."""

    exit_code = 12
    retryable = True
