"""Writing a ledger, or becoming a folder's owner, that is stopped at any step leaves the old state or the new one."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from storage import ledger
from storage.ledger import append_entries, read_ledger, rewrite_ledger
from storage.ledger_entries import LedgerState, SightEntry
from storage.ledger_owner import Owner, become_owner, read_owner
from tests.bed import quick_folder
from tests.stopping import every_step

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
OLD = [SightEntry(f"{number:032x}", NOON) for number in range(3)]
NEW = [SightEntry(f"{number:032x}", NOON) for number in range(3, 6)]


def sights(folder: Path) -> set[str]:
    return {sight.point for sight in read_ledger(folder).state.of(SightEntry)}


@pytest.mark.parametrize("grown", [False, True])
def test_appending(grown: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "_SMALL_BYTES", 10 if grown else 1 << 20)
    with quick_folder() as bed:
        folders = [bed / "0"]
        folders[0].mkdir()
        append_entries(folders[0], OLD, now=NOON)

        def check(step: int) -> None:
            found = sights(folders[-1])
            assert found >= {sight.point for sight in OLD}, f"step {step}"
            append_entries(folders[-1], NEW, now=NOON)
            assert read_ledger(folders[-1]).state == LedgerState([*OLD, *NEW])
            folders.append(bed / str(step + 1))
            folders[-1].mkdir()
            append_entries(folders[-1], OLD, now=NOON)

        assert every_step(lambda: append_entries(folders[-1], NEW, now=NOON), monkeypatch, check) >= 4


def test_writing_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    with quick_folder() as bed:
        append_entries(bed, OLD, now=NOON)
        path = bed / ".rollforward" / "ledger"

        def check(step: int) -> None:
            assert read_ledger(bed).state == LedgerState(OLD), f"step {step}"
            with path.open("ab") as file:
                file.write(b"damaged\n")

        check(-1)
        assert every_step(lambda: rewrite_ledger(bed, NOON), monkeypatch, check) >= 6


def test_taking_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with quick_folder() as bed:
        before, after = Owner("a" * 32, "x", NOON), Owner("b" * 32, "x", NOON)
        become_owner(bed, before)

        def check(step: int) -> None:
            owner = read_owner(bed)
            assert owner is not None, f"step {step}"
            assert owner.agent in (before.agent, after.agent)
            become_owner(bed, before, take_over=True)

        assert every_step(lambda: become_owner(bed, after, take_over=True), monkeypatch, check) >= 6
