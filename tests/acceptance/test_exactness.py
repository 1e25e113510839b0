"""Every state of a 2 GiB volume comes back to the last bit."""

from __future__ import annotations

import pytest

from tests.acceptance.conftest import Tell
from tests.bed import Bed
from tests.checks import exactness

pytestmark = pytest.mark.acceptance


def test_capture(tell: Tell, bed: Bed) -> None:
    def capture() -> str:
        count = bed.must_verify(bed.chain)
        written_mib = sum(state.written_bytes for state in bed.history.states) >> 20
        stored_mib = sum(path.stat().st_size for path in bed.chain.iterdir() if path.is_file()) >> 20
        return f"{count} images of {stored_mib:,} MiB for {written_mib:,} MiB written"

    tell("captured and verified", capture)


def test_incrementals(tell: Tell, bed: Bed) -> None:
    tell("every state from incrementals alone", lambda: exactness.incrementals_alone(bed))


def test_consolidations(tell: Tell, bed: Bed) -> None:
    tell("from consolidations, their sources deleted", lambda: exactness.consolidations_alone(bed))


def test_synthetic_full(tell: Tell, bed: Bed) -> None:
    tell("from a synthetic full", lambda: exactness.synthetic_full(bed))


def test_mixed(tell: Tell, bed: Bed) -> None:
    tell("every state from a mixture", lambda: exactness.mixed(bed))


def test_shrink_and_grow_incrementals(tell: Tell, resized: Bed) -> None:
    tell("shrinks and grows, from incrementals alone", lambda: exactness.incrementals_alone(resized))


def test_shrink_and_grow_consolidations(tell: Tell, resized: Bed) -> None:
    tell("shrinks and grows, from consolidations", lambda: exactness.consolidations_alone(resized))


def test_shrink_and_grow_full(tell: Tell, resized: Bed) -> None:
    tell("shrinks and grows, from a synthetic full", lambda: exactness.synthetic_full(resized))


def test_shrink_and_grow_mixed(tell: Tell, resized: Bed) -> None:
    tell("shrinks and grows, every state from a mixture", lambda: exactness.mixed(resized))


def test_order_of_merging(tell: Tell, bed: Bed) -> None:
    tell("monthly from weeklies or incrementals", lambda: exactness.merging_order_is_no_matter(bed))


def test_order_of_merging_resized(tell: Tell, resized: Bed) -> None:
    tell("the same, shrinks and grows", lambda: exactness.merging_order_is_no_matter(resized))


def test_two_makers(tell: Tell, bed: Bed) -> None:
    tell("one consolidation in two folders by two processes", lambda: exactness.two_makers_agree(bed))


def test_old_data(tell: Tell, bed: Bed) -> None:
    tell("restored onto old data", lambda: exactness.onto_old_data(bed))


def test_block_device(tell: Tell, bed: Bed) -> None:
    tell("captured from a block device", lambda: exactness.device_capture(bed))


def test_fingerprints(tell: Tell, bed: Bed) -> None:
    tell("fingerprints cut back, lost, damaged, stale", lambda: exactness.lost_fingerprints(bed))


def test_combined_names(tell: Tell, bed: Bed) -> None:
    tell("names of several tiers", lambda: exactness.combined_names(bed))


def test_time(tell: Tell, bed: Bed) -> None:
    tell("restored by time", lambda: exactness.by_time(bed))
