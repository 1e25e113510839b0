"""Frames that a point does not show are read and checked all the same."""

from __future__ import annotations

import pytest

from policies.errors import FormatError
from storage.hidden_frames import check_hidden
from storage.overlay import Overlay
from storage.pipeline import no_progress
from tests.unit.forge import take_apart
from tests.unit.tiny import BLOCK, TinyVolume, noise


@pytest.fixture
def volume(tmp_path):
    """Block 0 is seen of the base, 1 of both, 2 of the second point; 3 was cut off."""
    made = TinyVolume(tmp_path)
    old = noise(4 * BLOCK)
    made.capture_states([old, old[:BLOCK] + noise(100, 1) + old[BLOCK + 100 : 2 * BLOCK] + noise(BLOCK, 2)])
    return made


@pytest.mark.parametrize(("block", "is_hidden"), [(0, False), (1, False), (2, True), (3, True)])
def test_what_is_hidden_and_nothing_else(volume, block, is_hidden):
    content = bytearray(volume.image().read_bytes())
    (record,) = [each for each in take_apart(bytes(content)).records if each["block"] == block]
    content[int(record["offset"]) + int(record["length"]) // 2] ^= 1
    volume.image().write_bytes(content)
    told = []
    with Overlay([volume.image(), volume.image(1)]) as overlay:
        if is_hidden:
            with pytest.raises(FormatError, match=f"block {block}") as caught:
                check_hidden(overlay, no_progress)
            assert caught.value.path == str(volume.image())
        else:
            check_hidden(overlay, lambda *step: told.append(step))
            assert told[-1] == (overlay.frames_bytes, overlay.frames_bytes)
