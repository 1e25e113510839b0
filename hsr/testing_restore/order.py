"""What is asked of a process that tests a restore, and what it answers: small, frozen, and told as JSON values.

The images are named one by one, with their roots: what is read is what was claimed, and nothing else.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from policies.restore_tests import SATA, Verdict


@dataclass(frozen=True, slots=True)
class Order:
    """A point that is to be tested.

    Attributes:
        images: the images that lead to it, base first.
        roots: the root of each, as it was verified.
        point_id: 16 bytes.
        volume: name of the volume, for its keys.
        base: number of the base of its chain, likewise.
        password: of an encrypted chain; None of a plain one.
        wrap: what the volume is wrapped in to be started: none, mbr or gpt.
        starts: whether it is started, if anything says that it starts.
        insists: whether it is started whatever says so.
        marker: words on its serial console that say that it is up; None to wait for its screen to settle.
        bus: what its disk hangs on.
        shot: name of the file for its last screen.
    """

    images: tuple[Path, ...]
    roots: tuple[bytes, ...]
    point_id: bytes
    volume: str
    base: int
    password: bytes | None = field(default=None, repr=False)
    wrap: str = "none"
    starts: bool = False
    insists: bool = False
    marker: str | None = None
    bus: str = SATA
    shot: str = "screen.png"

    def packed(self) -> dict[str, object]:
        """Write it as JSON values."""
        return {
            "images": [str(image) for image in self.images],
            "roots": [root.hex() for root in self.roots],
            "point_id": self.point_id.hex(),
            "volume": self.volume,
            "base": self.base,
            "password": None if self.password is None else base64.b64encode(self.password).decode(),
            "wrap": self.wrap,
            "starts": self.starts,
            "insists": self.insists,
            "marker": self.marker,
            "bus": self.bus,
            "shot": self.shot,
        }

    @classmethod
    def unpacked(cls, packed: Mapping[str, Any]) -> Order:
        """Read what `packed` wrote."""
        password = packed["password"]
        return cls(
            **{
                **packed,
                "images": tuple(Path(image) for image in packed["images"]),
                "roots": tuple(bytes.fromhex(root) for root in packed["roots"]),
                "point_id": bytes.fromhex(packed["point_id"]),
                "password": None if password is None else base64.b64decode(password),
            }
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """What was found.

    Attributes:
        verdict: what is thought of the point.
        words: what was found, in words.
        seconds: how long it took.
        lacking: what is not installed here, without which nothing is clear; None if nothing is missing.
        screenshot: where its last screen lies; None if there is none.
        facts: all that was found, as `record.RestoreTest.fields` tells it.
    """

    verdict: Verdict
    words: str
    seconds: float
    lacking: str | None = None
    screenshot: str | None = None
    facts: Mapping[str, object] = field(default_factory=dict)


Tester = Callable[[Order, Callable[[], bool]], "Answer | None"]
"""Tests a point, asking now and then whether to stop; None if it did. Raises what stands in the way of a test."""
