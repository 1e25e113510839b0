"""A thousand forgeries of encrypted images."""

from __future__ import annotations

from tests.bed import quick_folder
from tests.checks import forgery


def test_each_forgery_is_noticed() -> None:
    with quick_folder() as folder:
        assert forgery.forgeries(*forgery.stage(folder), count=1000)
