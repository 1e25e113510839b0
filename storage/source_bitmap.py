"""An NBD export with a dirty bitmap as the source of a capture."""

from __future__ import annotations

from policies.errors import SourceError
from storage.bitmap_names import begins_at, bitmap_name
from storage.nbd_uri import NbdUri
from storage.source import CaptureStep
from storage.source_nbd import NbdSource


class BitmapAccess:
    """Opens an export for a capture of what its dirty bitmap marks, if that began at the parent point.

    Args:
        uri: the export, which nobody may write to.
        bitmap: name of the bitmap.
        or_whole: compare the whole volume where the bitmap does not fit, instead of refusing.

    Attributes:
        notes: what the caller should be told.
        reads_marked: whether only what the bitmap marks was read.
    """

    def __init__(self, uri: NbdUri, bitmap: str, *, or_whole: bool = False) -> None:
        self._uri = uri
        self._bitmap = bitmap
        self._or_whole = or_whole
        self.notes: list[str] = []
        self.reads_marked = False

    def open(self, step: CaptureStep) -> NbdSource:
        """Connect.

        Raises:
            SourceError: the bitmap did not begin at the parent point, or the export cannot be had, has no such
                bitmap, is empty or can be written to.
        """
        if step.parent is not None and begins_at(self._bitmap, step.parent):
            self.reads_marked = True
            return NbdSource(self._uri, bitmap=self._bitmap, must_be_read_only=True)
        fitting = f"a bitmap named {bitmap_name(step.parent.id)}" if step.parent else "none: a base is due"
        if not self._or_whole:
            raise SourceError(
                "the dirty bitmap does not say that it began at the parent point",
                path=str(self._uri),
                expected=fitting,
                actual=self._bitmap,
                hint="Let the whole volume be compared: leave --bitmap out, or add --or-whole.",
            )
        self.notes.append(f"the bitmap {self._bitmap} did not begin at the parent point: all was read")
        return NbdSource(self._uri, must_be_read_only=True)
