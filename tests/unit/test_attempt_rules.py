"""When work is tried again, and when a file counts as landed."""

from __future__ import annotations

from datetime import timedelta

import pytest

from policies.attempts import LONGEST_WAIT, judge_attempts
from policies.landing import has_landed


@pytest.mark.parametrize(
    ("failures", "crashes", "wait_s"),
    [(0, 0, 0), (1, 0, 30), (2, 0, 120), (0, 1, 0), (0, 2, 30), (1, 1, 30), (2, 2, 480)],
)
def test_waits_grow(failures: int, crashes: int, wait_s: int):
    verdict = judge_attempts(failures, crashes)
    assert not verdict.quarantined
    assert verdict.wait == timedelta(seconds=wait_s)
    assert verdict.wait <= LONGEST_WAIT


@pytest.mark.parametrize(("failures", "crashes"), [(3, 0), (0, 3), (3, 2), (7, 7)])
def test_three_of_a_kind_are_enough(failures: int, crashes: int):
    assert judge_attempts(failures, crashes).quarantined


@pytest.mark.parametrize(
    ("complete", "unchanged_s", "landed"), [(True, 0, True), (False, 29, False), (False, 30, True)]
)
def test_landing_takes_completeness_or_stillness(complete: bool, unchanged_s: int, landed: bool):
    found = has_landed(
        complete=complete, unchanged_for=timedelta(seconds=unchanged_s), settle_time=timedelta(seconds=30)
    )
    assert found is landed


def test_trouble_that_may_pass_is_tried_for_ever():
    verdict = judge_attempts(50, 0, may_pass=True)
    assert (verdict.quarantined, verdict.wait) == (False, LONGEST_WAIT)
    assert judge_attempts(0, 3, may_pass=True).quarantined
