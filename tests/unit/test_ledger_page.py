"""docs/ledger.md says what the code does."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from storage import ledger, ledger_owner, retired
from storage.catalog import TombstoneState
from storage.catalog.tombstones import GRACE
from storage.file_marks import FileMark
from storage.ledger_entries import (
    KEPT_FOR,
    HoldEntry,
    ReporterEntry,
    RestoreTestEntry,
    SeenEntry,
    SightEntry,
    TombstoneEntry,
)
from storage.own_folder import OWN_NAME

PAGE = (Path(__file__).parents[2] / "docs" / "ledger.md").read_text()
KINDS = (HoldEntry, TombstoneEntry, SeenEntry, SightEntry, ReporterEntry, RestoreTestEntry)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_a_row_with_its_fields(kind: type[HoldEntry]):
    [row] = re.findall(rf"^\| `{kind.word}` \| (.*) \|$", PAGE, re.MULTILINE)
    assert re.findall(r"`(\w+)`", row) == [field.name for field in dataclasses.fields(kind)]


def test_states_stand_there_in_their_order():
    rows = [row for row in re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE) if row in set(TombstoneState)]
    assert rows == [state.value for state in TombstoneState]


def test_names_and_numbers_are_those_of_the_code():
    for name in (
        f"{OWN_NAME}/{ledger.LEDGER_NAME}",
        f"{OWN_NAME}/{ledger.DAMAGED_NAME}",
        f"{OWN_NAME}/{ledger_owner.OWNER_NAME}",
        f"{OWN_NAME}/{retired.RETIRED_NAME}/TOKEN/",
        f"{retired.INCREMENTALS_NAME}/",
    ):
        assert f"`{name}`" in PAGE
    assert f'{{"is":"ledger","version":{ledger.VERSION},' in PAGE
    assert f'{{"is":"owner","version":{ledger_owner.VERSION},' in PAGE
    assert f"{KEPT_FOR.days} days" in PAGE
    assert f"{GRACE.total_seconds() / 3600:.0f} hours later" in PAGE
    assert all(f"`{field.name}`" in PAGE for field in dataclasses.fields(FileMark))
