"""Letters of each kind, sent by an agent to a real mail server."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.conftest import Tell
from tests.checks.letters_received import every_kind
from tests.loop import needs_root

pytestmark = [pytest.mark.acceptance, needs_root]


def test_every_kind_of_letter(tell: Tell, tmp_path: Path) -> None:
    tell("each kind of trouble told, and its end", lambda: every_kind(tmp_path))
