"""Images that land: noticed, never too early, verified, judged."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from storage.catalog import EventKind, ImageState
from storage.verify import verify_image
from tests.integration.agent_run import AgentRun, wait_for
from tests.integration.conftest import Stock, make_stock


def test_every_way_of_landing_is_noticed(agent: AgentRun, stock: Stock):
    base, first, second, third, fourth, _ = stock.images
    shutil.copyfile(base, agent.folder / base.name)  # written in place
    outside = agent.work_dir / first.name
    shutil.copyfile(first, outside)
    outside.rename(agent.folder / first.name)  # moved in
    hidden = agent.folder / ".copying"
    shutil.copyfile(second, hidden)
    hidden.rename(agent.folder / second.name)  # renamed within
    (agent.folder / third.name).hardlink_to(third)  # a new name for a file that is there
    (agent.folder / "notes.txt").write_text("not an image")
    agent.wait_good(*stock.names[:4])
    assert agent.states().keys() == set(stock.names[:4])
    image = agent.images()[second.name]
    assert image.root == verify_image(second).root
    assert image.verified_at is not None
    assert [point["number"] for point in image.covers] == [2]
    for name in stock.names[:4]:
        assert len(agent.events(EventKind.VERIFIED, name)) == 1
    (agent.folder / fourth.name).write_bytes(fourth.read_bytes())
    agent.wait_good(fourth.name)


def test_verification_begins_within_a_second(agent: AgentRun, stock: Stock):
    waits = []
    for image in stock.images:
        target = agent.folder / image.name
        shutil.copyfile(image, target)
        closed = target.stat().st_mtime_ns / 1e9
        agent.wait_good(image.name)
        verified = agent.events(EventKind.VERIFIED, image.name)[0]
        waits.append(verified.recorded_at.timestamp() - float(verified.facts["seconds"] or 0) - closed)
    print("seconds from closed to verification begun:", " ".join(f"{wait:.3f}" for wait in waits))
    assert sorted(waits)[len(waits) // 2] < 1.0


def test_what_was_there_before_the_start_is_found(tmp_path: Path, stock: Stock):
    run = AgentRun(tmp_path)
    for image in stock.images:
        shutil.copyfile(image, run.folder / image.name)
    with run:
        run.wait_good(*stock.names)


def test_a_slow_copy_is_not_taken_before_its_end(patient_agent: AgentRun, stock: Stock):
    agent = patient_agent
    base = stock.images[0]
    content = base.read_bytes()
    target = agent.folder / base.name
    pieces = 4
    with target.open("wb", buffering=0) as file:
        for piece in range(pieces):
            file.write(content[piece * len(content) // pieces : (piece + 1) * len(content) // pieces])
            size = target.stat().st_size
            if piece < pieces - 1:  # let it be seen at this size, and that more than once
                wait_for(
                    lambda size=size: _seen_bytes(agent, base.name) == size, f"a scan that sees {size} bytes"
                )
                assert agent.states()[base.name] is ImageState.SETTLING
    agent.wait_good(base.name)
    assert not agent.events(EventKind.FOUND_BAD)
    assert len(agent.events(EventKind.LANDED)) == 1


def test_a_copy_that_begins_with_its_end_is_not_called_bad(patient_agent: AgentRun, stock: Stock):
    agent = patient_agent
    base = stock.images[0]
    content = base.read_bytes()
    target = agent.folder / base.name
    with target.open("wb", buffering=0) as file:
        os.pwrite(file.fileno(), content[-4096:], len(content) - 4096)
        os.pwrite(file.fileno(), content[:4096], 0)
        wait_for(lambda: _reason(agent, base.name), "a first verification")
        assert agent.states()[base.name] is not ImageState.BAD
        os.pwrite(file.fileno(), content, 0)
    agent.wait_good(base.name)
    assert not agent.events(EventKind.FOUND_BAD)


def test_bad_files_are_bad_with_a_reason(agent: AgentRun, stock: Stock, tmp_path: Path):
    strangers = tmp_path / "strangers"
    strangers.mkdir()
    stranger = make_stock(tmp_path / "other.raw", strangers, volume_bytes=1 << 20, seed=2)
    base, first, second, third, fourth, fifth = (agent.folder / name for name in stock.names)
    shutil.copyfile(stock.images[0], base)
    agent.wait_good(base.name)
    flipped = bytearray(stock.images[1].read_bytes())
    flipped[len(flipped) // 2] ^= 1
    first.write_bytes(flipped)
    second.write_text("this is a text file\n" * 40)
    third.write_bytes(b"")
    fourth.write_bytes(stock.images[4].read_bytes()[:-100])
    shutil.copyfile(stranger.images[5], fifth)
    expected = {first.name: "damaged", second.name: "not a rollforward image", third.name: "empty"}
    expected |= {fourth.name: "trailer", fifth.name: "another chain"}
    wait_for(lambda: all(agent.states().get(name) is ImageState.BAD for name in expected), "five bad images")
    for name, words in expected.items():
        reason = agent.images()[name].reason
        assert reason is not None
        assert words in reason, name
        assert len(agent.events(EventKind.FOUND_BAD, name)) == 1
    assert agent.states()[base.name] is ImageState.GOOD
    shutil.copyfile(stock.images[1], first)  # a good copy takes the bad one's place
    agent.wait_good(first.name)


def test_a_file_that_goes_is_missing_and_comes_back(agent: AgentRun, stock: Stock):
    base = agent.folder / stock.names[0]
    shutil.copyfile(stock.images[0], base)
    agent.wait_good(base.name)
    away = agent.work_dir / base.name
    base.rename(away)
    wait_for(lambda: agent.states()[base.name] is ImageState.MISSING, "the image to be missing")
    away.rename(base)
    agent.wait_good(base.name)


def test_a_folder_that_goes_is_a_state_and_comes_back(agent: AgentRun, stock: Stock):
    for image in stock.images[:2]:
        shutil.copyfile(image, agent.folder / image.name)
    agent.wait_good(*stock.names[:2])
    unplugged = agent.work_dir / "unplugged"
    agent.folder.rename(unplugged)
    wait_for(lambda: agent.folders()[0].problem, "the folder to be lost")
    assert agent.is_good(*stock.names[:2])  # of its images nothing is known
    shutil.copyfile(stock.images[2], unplugged / stock.names[2])
    unplugged.rename(agent.folder)
    agent.wait_good(*stock.names[:3])
    wait_for(lambda: agent.folders()[0].problem is None, "the folder to be back")
    shutil.copyfile(stock.images[3], agent.folder / stock.names[3])
    agent.wait_good(stock.names[3])
    assert len(agent.events(EventKind.FOLDER_LOST)) == 1


def _seen_bytes(agent: AgentRun, name: str) -> int | None:
    image = agent.images().get(name)
    return image.stored_bytes if image is not None else None


def _reason(agent: AgentRun, name: str) -> str | None:
    image = agent.images().get(name)
    return image.reason if image is not None else None
