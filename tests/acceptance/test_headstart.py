"""Disks that are rolled forward: killed at 100 moments, cut at 200 steps, right in every kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from hsr.disks.form import DiskKind
from storage import replay
from tests.acceptance.conftest import Tell
from tests.bed import Bed
from tests.checks.rolling import KINDS, finalized_everywhere, killed_rolling
from tests.checks.torn_rolling import lives_cut
from tests.rolling_world import BLOCK, make_world

pytestmark = pytest.mark.acceptance

KILLS = 100
CUTS = 200


@pytest.mark.parametrize("kind", KINDS)
def test_finalized_everywhere(tell: Tell, bed: Bed, kind: DiskKind) -> None:
    tell("point by point", lambda: finalized_everywhere(bed, kind))


def test_killed(tell: Tell, bed: Bed) -> None:
    def count() -> str:
        figure = killed_rolling(bed, KILLS)
        assert figure.startswith(f"{KILLS} kills"), figure
        return figure

    tell("kill -9", count)


@pytest.mark.parametrize("kind", KINDS)
def test_cut(tell: Tell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: DiskKind) -> None:
    monkeypatch.setattr(replay, "_STRIPE_BYTES", BLOCK)
    world = make_world(tmp_path, size=200 * BLOCK + 700)
    tell("unsynced writes dropped and reordered", lambda: f"{kind}, {lives_cut(world, kind, CUTS)}")
    tell("the same after a kill -9", lambda: f"{kind}, {lives_cut(world, kind, CUTS, killed=True)}")
