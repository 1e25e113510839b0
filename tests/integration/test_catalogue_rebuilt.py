"""A catalogue that was lost is built anew from the folders and their ledgers; a folder has one agent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bed import quick_folder
from tests.command import Ran, in_this_process
from tests.unit.tiny import BLOCK, TinyVolume, noise


def run(*arguments: str | Path, state: Path) -> Ran:
    return in_this_process(*arguments, "--state", state)


@pytest.fixture
def tiny():
    with quick_folder() as folder:
        volume = TinyVolume(folder / "a büro's images")
        volume.put(0, noise(BLOCK))
        volume.capture()
        yield volume


def test_what_was_promised_is_in_force_again(tiny: TinyVolume):
    folder, state = tiny.folder, tiny.folder.parent / "state"
    assert run("folder", "add", folder, state=state).code == 0
    assert run("catalogue", "rebuild", state=state).code == 0
    [image] = [path.name for path in folder.glob("*.spf")]
    held = run("hold", folder / image, "--reason", "audit", state=state)
    assert held.code == 0, held
    before = json.loads(run("catalogue", "show", "--json", state=state).output)
    assert (before["folders"], before["images"], before["ledgers_behind"]) == (1, 1, 0)

    anew = run("catalogue", "rebuild", "--anew", folder, "--json", state=state)
    assert anew.code == 0, anew
    [told] = anew.objects
    assert (told["status"], told["ownership"], told["images"], told["holds"]) == ("rebuilt", "ours", 1, 1)
    assert told["frozen"] is not None
    assert "audit" in run("holds", state=state).output
    after = json.loads(run("catalogue", "show", "--json", state=state).output)
    assert after["agent"] == before["agent"]
    assert [path.name for path in state.glob("catalogue.sqlite.before-*Z")] != []

    again = run("catalogue", "rebuild", state=state)
    assert "was known" in again.output
    assert f"{folder}" in again.output


def test_a_folder_of_another_agent_is_refused_until_it_is_taken_over(tiny: TinyVolume):
    folder, mine, other = tiny.folder, tiny.folder.parent / "mine", tiny.folder.parent / "other"
    assert run("folder", "add", folder, state=mine).code == 0
    refused = run("catalogue", "rebuild", folder, "--json", state=other)
    assert refused.code == 8
    [error] = refused.objects
    assert error["error"] == "OwnershipError"
    assert "--take-over" in error["hint"]
    assert json.loads(run("catalogue", "show", "--json", state=other).output)["folders"] == 0
    taken = run("catalogue", "rebuild", folder, "--take-over", state=other)
    assert taken.code == 0, taken
    assert run("catalogue", "rebuild", state=mine).code == 8


def test_an_empty_directory_may_be_a_drive_that_is_away(tiny: TinyVolume):
    mount_point, state = tiny.folder.parent / "drive", tiny.folder.parent / "state"
    mount_point.mkdir()
    ran = run("catalogue", "rebuild", mount_point, "--json", state=state)
    assert (ran.code, ran.objects[0]["status"]) == (7, "error")
    assert list(mount_point.iterdir()) == []


def test_without_a_folder_it_says_what_to_do(tiny: TinyVolume):
    ran = run("catalogue", "rebuild", state=tiny.folder.parent / "state")
    assert (ran.code, "name those" in ran.output) == (0, True)
