"""What the sizes of a spanned set's parts say: all but the last are alike, the last one is not larger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_CANDIDATES: Final = 3
"""So many sizes, the most frequent ones, are tried as the part size."""


@dataclass(frozen=True, slots=True)
class OddPart:
    """A part that has another size than the others ask for.

    Attributes:
        part: which one; 0 is the first.
        expected_bytes: the size that it should have; for a last part of unknown size, the most that it may have.
        actual_bytes: the size that it has.
    """

    part: int
    expected_bytes: int
    actual_bytes: int

    @property
    def is_too_long(self) -> bool:
        """Whether it holds more than it should, rather than less."""
        return self.actual_bytes > self.expected_bytes


def odd_part(sizes: Sequence[int], image_bytes: int | None = None) -> OddPart | None:
    """Find the part that spoils a set's sizes.

    The part size is taken to be the one that most parts bear out; in doubt the first part's.

    Args:
        sizes: sizes of the parts in bytes, first part first; at least two.
        image_bytes: size of the whole image, where its trailer tells that.

    Returns:
        The first part that does not fit; None if all do.
    """
    most = Counter(sizes[:-1]).most_common(_CANDIDATES)
    candidates = dict.fromkeys([sizes[0], *(size for size, _ in most)])
    odd = [_odd_parts(sizes, part_bytes, image_bytes) for part_bytes in candidates]
    fewest = min(odd, key=len)
    return fewest[0] if fewest else None


def _odd_parts(sizes: Sequence[int], part_bytes: int, image_bytes: int | None) -> list[OddPart]:
    last = len(sizes) - 1
    found = [OddPart(part, part_bytes, size) for part, size in enumerate(sizes[:-1]) if size != part_bytes]
    if image_bytes is None:
        if not 0 < sizes[last] <= part_bytes:
            found.append(OddPart(last, part_bytes, sizes[last]))
    elif sizes[last] != (wanted := image_bytes - last * part_bytes) or not 0 < wanted <= part_bytes:
        found.append(OddPart(last, max(wanted, 0), sizes[last]))
    return found
