"""Failing media, at full size."""

from __future__ import annotations

import pytest

from tests.acceptance.conftest import Tell
from tests.bed import Bed
from tests.checks import media
from tests.failing_medium import needs_fuse

pytestmark = [pytest.mark.acceptance, needs_fuse]


def test_failing_media(tell: Tell, bed: Bed) -> None:
    tell("read errors and cuts", lambda: media.failing_media(bed))
