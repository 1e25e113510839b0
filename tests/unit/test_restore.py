"""Restore: to new raw files, over old ones when told so, and to block devices that hold old data."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hsr import restore as restoring
from hsr import targets
from hsr.restore import restore
from policies.errors import (
    BusyError,
    ChainError,
    ConfigurationError,
    DigestMismatchError,
    FormatError,
    RestoreError,
    RollforwardError,
    StorageError,
)
from storage import layout, overlay, replay
from tests.command import PROGRAM
from tests.commands import run
from tests.loop import loop_device, needs_root, small_file_system
from tests.unit.forge import sections, take_apart
from tests.unit.tiny import BLOCK, GRANULE, TinyVolume, fill, names, noise, open_files


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> TinyVolume:
    """A base, three incrementals and a daily of a volume that shrinks and grows."""
    tiny = TinyVolume(tmp_path_factory.mktemp("made"))
    first = noise(5 * BLOCK, 1) + bytes(70 * BLOCK) + noise(3 * BLOCK + 700, 2)
    second = first[:3000] + bytes(BLOCK) + first[3000 + BLOCK : 6 * BLOCK]
    third = second + bytes(4 * BLOCK + 3) + noise(5, 3)
    tiny.capture_states([first, second, third, third[:100] + b"end" + third[103:]])
    tiny.merge(0, 3, "-cd")
    return tiny


@pytest.fixture
def chain(made: TinyVolume, quick_path: Path) -> TinyVolume:
    """A base, three incrementals and a daily of a volume that shrinks and grows, to do with as one likes."""
    return made.copy(quick_path / "tiny")


def path_to(chain: TinyVolume, number: int) -> list[Path]:
    return [chain.image(at) for at in range(number + 1)]


@pytest.fixture
def target(quick_path: Path) -> Path:
    (quick_path / "out").mkdir()
    return quick_path / "out" / "restored.raw"


@pytest.mark.parametrize("number", range(4))
def test_every_point_comes_back(chain, target, number):
    done = restore(path_to(chain, number), target)
    assert target.read_bytes() == chain.states[number]
    assert (done.target, done.point.number) == (target, number)
    assert done.volume_bytes == len(chain.states[number])
    assert names(target.parent) == [target.name]


def test_small_buffers_change_nothing(chain, target, monkeypatch):
    monkeypatch.setattr(replay, "_STRIPE_BYTES", BLOCK)
    monkeypatch.setattr(replay, "_LOAD_BYTES", 1000)
    monkeypatch.setattr(overlay, "_WINDOW_PAGES", 1)
    for number in range(4):
        restore(path_to(chain, number), target, overwrite=True)
        assert target.read_bytes() == chain.states[number]


def test_the_file_is_sparse(tiny, tmp_path):
    tiny.resize(64 << 20)
    tiny.put(10 << 20, noise(BLOCK))
    tiny.put(40 << 20, b"x")
    tiny.capture()
    target = tmp_path / "restored.raw"
    done = restore([tiny.image()], target)
    assert target.stat().st_size == 64 << 20
    assert target.stat().st_blocks * 512 <= 3 * BLOCK
    assert done.written_bytes == 2 * BLOCK
    assert target.read_bytes() == tiny.states[0]


def test_a_span_is_applied_at_any_point_that_it_covers(chain, target):
    daily = chain.image(3, "-cd")
    for standing in range(4):
        restore([*path_to(chain, standing), daily], target, overwrite=True)
        assert target.read_bytes() == chain.states[3]


def test_a_raw_file_of_an_odd_size_with_large_blocks(tiny, target, monkeypatch):
    monkeypatch.setattr(layout, "geometry_for", lambda volume_bytes: 4096)
    tiny.capture_states([noise(2 * 524_288 + 1), noise(524_288 + 4095, 1)])
    for number in (0, 1):
        restore(path_to(tiny, number), target, overwrite=True)
        assert target.read_bytes() == tiny.states[number]


# --- what is there already


def test_an_existing_target_is_refused(chain, target):
    target.write_text("mine")
    with pytest.raises(ConfigurationError, match="exists already") as caught:
        restore(path_to(chain, 1), target)
    assert "--overwrite" in (caught.value.hint or "")
    assert target.read_text() == "mine"
    restore(path_to(chain, 1), target, overwrite=True)
    assert target.read_bytes() == chain.states[1]
    assert names(target.parent) == [target.name]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("kind", ["folder", "link", "dangling link", "pipe", "character device"])
def test_what_is_neither_a_file_nor_a_block_device_is_refused(chain, target, kind, overwrite):
    elsewhere = target.with_name("elsewhere")
    if kind == "folder":
        target.mkdir()
    elif kind == "pipe":
        os.mkfifo(target)
    elif kind == "character device":
        target = Path("/dev/null")
    else:
        target.symlink_to(elsewhere)
        if kind == "link":
            elsewhere.write_text("mine")
    with pytest.raises(ConfigurationError) as caught:
        restore(path_to(chain, 1), target, overwrite=overwrite)
    assert caught.value.path == str(target)
    if kind == "link":
        assert elsewhere.read_text() == "mine"


def test_a_missing_folder_is_named(chain, target):
    with pytest.raises(ConfigurationError, match="folder of the target"):
        restore(path_to(chain, 1), target.parent / "nowhere" / "x.raw")


@pytest.mark.parametrize("number", [0, 1])
def test_an_image_is_never_overwritten_by_what_is_restored_from_it(chain, number):
    victim = chain.image(number)
    before = victim.read_bytes()
    with pytest.raises(RollforwardError) as caught:
        restore(path_to(chain, 1), victim, overwrite=True)
    assert str(victim) in str(caught.value)
    assert victim.read_bytes() == before
    alias = chain.folder.parent / "alias"
    os.link(victim, alias)
    with pytest.raises(RollforwardError):
        restore(path_to(chain, 1), alias, overwrite=True)


def test_a_name_that_is_taken_meanwhile_stays(chain, target, monkeypatch):
    real = restoring.open_target

    def take_name(path: Path, size: int, *, overwrite: bool) -> object:
        opened = real(path, size, overwrite=overwrite)
        path.write_text("mine")
        return opened

    monkeypatch.setattr(restoring, "open_target", take_name)
    with pytest.raises(BusyError):
        restore(path_to(chain, 1), target)
    assert target.read_text() == "mine"
    assert names(target.parent) == [target.name]


# --- images that do not fit


def test_a_path_must_begin_with_a_base(chain, target):
    with pytest.raises(ChainError, match="no base") as caught:
        restore([chain.image(1), chain.image(2)], target)
    assert caught.value.path == str(chain.image(1))
    assert names(target.parent) == []


def test_images_must_follow_each_other(chain, target):
    for numbers, at_fault in (([0, 2], 2), ([0, 1, 3], 3)):
        with pytest.raises(ChainError, match="cannot be applied after") as caught:
            restore([chain.image(number) for number in numbers], target)
        assert caught.value.path == str(chain.image(at_fault))
    with pytest.raises(ChainError):
        restore([chain.image(0), chain.image(0), chain.image(2)], target)
    assert names(target.parent) == []


PARTS = ["fixed header", "points", "metadata", "frames", "index", "page table", "segment table", "trailer"]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_damaged_image_is_refused_and_leaves_nothing(chain, target, part, victim):
    path = chain.image(victim)
    image = path.read_bytes()
    at = sections(image)[part]
    at = at[len(at) // 2]
    path.write_bytes(image[:at] + bytes([image[at] ^ 4]) + image[at + 1 :])
    target.write_text("mine")
    before = open_files()
    with pytest.raises(FormatError) as caught:
        restore(path_to(chain, 2), target, overwrite=True)
    assert caught.value.path == str(path)
    assert target.read_text() == "mine"
    assert names(target.parent) == [target.name]
    assert open_files() == before


def test_damage_under_a_newer_frame_is_noticed_too(tiny, target):
    tiny.capture_states([noise(BLOCK, seed) for seed in range(3)])
    path = tiny.image(1)
    image = path.read_bytes()
    at = sections(image)["frames"][500]
    path.write_bytes(image[:at] + bytes([image[at] ^ 4]) + image[at + 1 :])
    with pytest.raises(DigestMismatchError) as caught:
        restore(path_to(tiny, 2), target)
    assert caught.value.path == str(path)


def test_a_missing_image_is_named(chain, target):
    chain.image(1).unlink()
    with pytest.raises(StorageError) as caught:
        restore(path_to(chain, 2), target)
    assert caught.value.path == str(chain.image(1))


# --- media that refuse


@needs_root
def test_a_volume_that_no_file_can_hold(chain, tmp_path):
    """A header may claim sizes that a file system cannot make a file of: an error, and nothing is left."""
    forged = take_apart(chain.image().read_bytes())
    forged.points[1]["volume_bytes"] = (2**32 - 1) * BLOCK
    huge = tmp_path / "D_VOL-b001.spf"
    huge.write_bytes(forged.seal())
    with small_file_system(tmp_path, 4 << 20) as folder:
        before = open_files()
        with pytest.raises(RestoreError, match="File too large") as caught:
            restore([huge], folder / "huge.raw")
        assert caught.value.path == str(folder / "huge.raw")
        assert names(folder) == ["lost+found"]
        assert open_files() == before


@needs_root
def test_a_full_disk(chain, tmp_path):
    with small_file_system(tmp_path, 4 << 20) as folder:
        before = open_files()
        fill(folder, 100 * 1024)
        (folder / "old.raw").write_text("old")
        for name in ("new.raw", "old.raw"):
            with pytest.raises(RollforwardError, match="the disk is full") as caught:
                restore(path_to(chain, 0), folder / name, overwrite=True)
            assert caught.value.path == str(folder / name)
            assert caught.value.hint
        assert names(folder) == ["filler", "lost+found", "old.raw"]
        assert (folder / "old.raw").read_text() == "old"
        assert open_files() == before
        (folder / "filler").unlink()
        restore(path_to(chain, 0), folder / "old.raw", overwrite=True)
        assert (folder / "old.raw").read_bytes() == chain.states[0]


def test_without_direct_writing_it_is_the_same(chain, target, monkeypatch):
    monkeypatch.setattr(targets.os, "O_DIRECT", 0)
    real = os.pwrite

    def refuse_long(fd: int, plain: memoryview, offset: int) -> int:
        if len(plain) >= targets._DIRECT_BYTES_MIN and not offset % 8192:
            raise OSError(22, "Invalid argument")
        return real(fd, plain, offset)

    restore(path_to(chain, 3), target)
    assert target.read_bytes() == chain.states[3]
    writer = targets.DirectWriter(target)
    monkeypatch.setattr(targets.os, "pwrite", refuse_long)
    assert writer.write(0, memoryview(bytes(1 << 20))) == 0
    writer.close()
    assert targets.DirectWriter(target.with_name("gone")).write(0, memoryview(bytes(1 << 20))) == 0


# --- block devices


@needs_root
@pytest.mark.parametrize("number", range(4))
def test_a_block_device_with_old_data(chain, tmp_path, number):
    state = chain.states[number]
    whole = -(-len(state) // 512) * 512
    file = tmp_path / "device"
    old = noise(whole + 5 * BLOCK, 99)
    file.write_bytes(old)
    with loop_device(file) as device:
        done = restore(path_to(chain, number), device)
        assert done.volume_bytes == len(state)
    content = file.read_bytes()
    assert content[: len(state)] == state
    assert content[len(state) :] == old[len(state) :], "what lies beyond the volume is none of our business"


@needs_root
def test_a_block_device_through_a_link(chain, tmp_path):
    file = tmp_path / "device"
    file.write_bytes(bytes(len(chain.states[1]) // 512 * 512 + 512))
    with loop_device(file) as device:
        link = tmp_path / "link"
        link.symlink_to(device)
        restore(path_to(chain, 1), link)
    assert file.read_bytes()[: len(chain.states[1])] == chain.states[1]


@needs_root
def test_a_device_that_is_too_small_is_left_as_it_is(chain, tmp_path):
    file = tmp_path / "device"
    old = noise(len(chain.states[0]) // 512 * 512, 7)
    file.write_bytes(old)
    before = open_files()
    with loop_device(file) as device:
        with pytest.raises(RestoreError, match="too small") as caught:
            restore(path_to(chain, 0), device)
        assert caught.value.path == str(device)
    assert file.read_bytes() == old
    assert open_files() == before


@needs_root
@pytest.mark.parametrize("options", [[], ["-o", "ro"]])
def test_a_device_in_use_is_refused(chain, tmp_path, options):
    file = tmp_path / "device"
    with file.open("wb") as made:
        made.truncate(16 << 20)
    run("mkfs.ext4", "-q", "-F", str(file))
    point = tmp_path / "mnt"
    point.mkdir()
    with loop_device(file) as device:
        run("mount", *options, str(device), str(point))
        try:
            with pytest.raises(RestoreError, match="in use") as caught:
                restore(path_to(chain, 1), device, overwrite=True)
            assert caught.value.hint == "Unmount it first."
        finally:
            run("umount", str(point))
        restore(path_to(chain, 1), device)
    assert file.read_bytes()[: len(chain.states[1])] == chain.states[1]


@needs_root
def test_a_write_protected_device_is_refused(chain, tmp_path):
    file = tmp_path / "device"
    file.write_bytes(bytes(16 << 20))
    with loop_device(file) as device:
        run("blockdev", "--setro", str(device))
        try:
            with pytest.raises(RestoreError) as caught:
                restore(path_to(chain, 1), device)
        finally:
            run("blockdev", "--setrw", str(device))
        assert caught.value.path == str(device)
    assert not any(file.read_bytes()[:BLOCK])


@needs_root
def test_a_damaged_image_leaves_a_device_that_restoring_again_mends(tiny, tmp_path):
    tiny.capture_states([noise(200 * BLOCK, 1), noise(200 * BLOCK, 2)])
    path = tiny.image(1)
    good = path.read_bytes()
    at = sections(good)["frames"][-10]
    path.write_bytes(good[:at] + b"!" + good[at + 1 :])
    file = tmp_path / "device"
    file.write_bytes(noise(200 * BLOCK, 9))
    with loop_device(file) as device:
        with pytest.raises(DigestMismatchError) as caught:
            restore(path_to(tiny, 1), device)
        assert targets.HOLDS_PART in (caught.value.hint or "")
        path.write_bytes(good)
        restore(path_to(tiny, 1), device)
    assert file.read_bytes() == tiny.states[1]


@needs_root
def test_the_command_says_that_a_device_holds_a_part(tiny, tmp_path):
    tiny.capture_states([noise(20 * BLOCK, seed) for seed in range(3)])
    tiny.merge(0, 2, "-cd")
    path = tiny.image(2, "-cd")
    image = path.read_bytes()
    at = sections(image)["frames"][-10]
    path.write_bytes(image[:at] + bytes([image[at] ^ 4]) + image[at + 1 :])
    file = tmp_path / "device"
    file.write_bytes(noise(20 * BLOCK, 9))
    with loop_device(file) as device:
        command = [PROGRAM, "restore", str(tiny.folder), "--volume", tiny.name, "--to", str(device)]
        refused = subprocess.run(command, capture_output=True, text=True, check=False)
        assert refused.returncode == FormatError.exit_code
        said = " ".join(refused.stderr.split())
        assert f"--without '{path.name}'" in said
        assert targets.HOLDS_PART in said
        run(*command, "--without", path.name)
    assert file.read_bytes() == tiny.states[2]


# --- killed


def test_a_killed_restore_leaves_no_file_and_the_next_one_sweeps(chain, target):
    script = (
        "import sys; from pathlib import Path; from hsr.restore import restore\n"
        "paths = [Path(word) for word in sys.argv[1:]]\n"
        "restore(paths[:-1], paths[-1], progress=lambda *_: sys.stdin.read())"
    )
    command = [sys.executable, "-c", script, *map(str, path_to(chain, 2)), str(target)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE) as started:
        while not names(target.parent):
            assert started.poll() is None
            os.sched_yield()
        started.send_signal(signal.SIGKILL)
        started.wait()
    assert not target.exists()
    restore(path_to(chain, 2), target)
    assert names(target.parent) == [target.name]
    assert target.read_bytes() == chain.states[2]


def test_progress(chain, target):
    told: list[tuple[int, int]] = []
    restore(path_to(chain, 3), target, progress=lambda *step: told.append(step))
    frames = sum(len(sections(path.read_bytes())["frames"]) for path in path_to(chain, 3))
    assert told[-1] == (frames, frames)
    assert told == sorted(told)
    assert frames > GRANULE
