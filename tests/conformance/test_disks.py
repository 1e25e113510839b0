"""Every kind of virtual disk, held to the same: the truth, other programs' eyes, and a power that fails at any step."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hsr.disks.disk import VirtualDisk, create_disk, open_disk
from hsr.disks.flat import content_path
from hsr.disks.form import HIDDEN_BYTES, DiskKind, Stamp
from hsr.disks.pieces import Pieces
from hsr.disks.side_files import SIDE_NAME
from policies.errors import BusyError, ConfigurationError, FormatError, RestoreError
from tests.disk_readers import CHECKABLE, DISSECT_UNIT, blkid_says, qemu_driver, qemu_img, read_whole
from tests.loop import needs_root
from tests.torn_medium import PowerCut, TornMedium

MIB = 1 << 20
SIZE = 3 * MIB + 5 * 8192
PATH = Path("/disks/volume.img")
STAMP = Stamp(b"chain and point", datetime(2026, 3, 29, 1, 30, tzinfo=UTC))
KINDS = [kind for kind in DiskKind if kind is not DiskKind.DEVICE]
Batch = list[tuple[int, bytes]]


def pieces_of(batch: Batch) -> Pieces:
    """Pack pieces, each after some bytes that belong to none."""
    buffer, starts = bytearray(), []
    for _, content in batch:
        buffer += b"\xee" * 3
        starts.append(len(buffer))
        buffer += content
    return Pieces(
        np.frombuffer(bytes(buffer), np.uint8),
        np.array(starts, np.int64),
        np.array([offset for offset, _ in batch], np.int64),
        np.array([len(content) for _, content in batch], np.int64),
    )


def random_batch(random: Random, size: int, count: int) -> Batch:
    """Make pieces of whole sectors, some of them zero, some of them neighbours."""
    batch: Batch = []
    sectors = size // 512
    count = min(count, sectors // 2)
    marks = sorted(random.sample(range(sectors), 2 * count))
    for first, stop in zip(marks[::2], marks[1::2], strict=True):
        length = 512 * min(stop - first, random.choice((1, 8, 300)))
        content = bytes(length) if random.random() < 0.3 else random.randbytes(length)
        batch.append((512 * first, content))
        if random.random() < 0.3 and 512 * first + length < 512 * stop:
            batch.append((512 * first + length, random.randbytes(512)))
    return batch


def put(truth: bytearray, batch: Batch) -> None:
    for offset, content in batch:
        truth[offset : offset + len(content)] = content


@dataclass
class Step:
    """One span: what is zeroed first, then batches."""

    zero: tuple[int, int]
    batches: list[Batch]

    def apply(self, disk: VirtualDisk, *, again: bool = False) -> None:
        """Apply it; again as another span would that leads to the same point: blocks come in another order."""
        disk.zero(*self.zero)
        for batch in reversed(self.batches) if again else ():
            disk.write(pieces_of(batch))
        for batch in self.batches:
            disk.write(pieces_of(batch))

    def model(self, truth: bytearray) -> None:
        first, stop = self.zero
        truth[first:stop] = bytes(stop - first)
        for batch in self.batches:
            put(truth, batch)


def some_history(seed: int, size: int) -> list[Step]:
    random = Random(seed)
    base = Step((0, size), [random_batch(random, size, 4) for _ in range(4)])
    base.batches[0] = [(0, random.randbytes(512))]
    base.batches.append([(size - 512, random.randbytes(512))])
    shrunk = Step((size // 2, size), [random_batch(random, size, 3) for _ in range(2)])
    return [base, Step((size, size), [random_batch(random, size, 5) for _ in range(2)]), shrunk]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> DiskKind:
    chosen: DiskKind = request.param
    return chosen


class Run:
    """A history that is applied to a disk on a medium that may fail; goes on where it was."""

    def __init__(self, kind: DiskKind, steps: list[Step], size: int) -> None:
        self.kind, self.steps, self.size = kind, steps, size
        self.cursor = 0
        self.tries = self.serial = 0

    def go(self, medium: TornMedium) -> None:
        try:
            disk = open_disk(PATH, serial=self.serial, medium=medium)
        except ConfigurationError:
            disk = create_disk(PATH, self.kind, self.size, medium=medium)
        for step in self.steps[self.cursor :]:
            step.apply(disk, again=self.tries > 0)
            disk.sync()
            self.cursor, self.serial = self.cursor + 1, disk.serial
        disk.finalize(STAMP)

    def truth(self) -> bytes:
        truth = bytearray(self.size)
        for step in self.steps:
            step.model(truth)
        return bytes(truth)


def content_on(medium: TornMedium, kind: DiskKind) -> bytes:
    return bytes(medium.names[content_path(PATH, kind)].now)


def is_disk(medium: TornMedium, kind: DiskKind) -> bool:
    """Tell whether anybody could take what is there for a disk, or a file system."""
    if kind is DiskKind.VMDK_FLAT:
        return medium.exists(PATH)
    stored = medium.names.get(PATH)
    if stored is None:
        return False
    if kind is DiskKind.VHD_FIXED:
        return len(stored.now) == SIZE + 512 and stored.now[-512:-504] == b"conectix"
    return any(stored.now[:512]) or (kind is DiskKind.VHD and stored.now[-512:-504] == b"conectix")


def assert_exact(medium: TornMedium, kind: DiskKind, truth: bytes) -> None:
    found = read_whole(io.BytesIO(content_on(medium, kind)), kind, SIZE)
    assert found == truth


@pytest.fixture(scope="module")
def whole_runs() -> dict[DiskKind, tuple[int, bytes]]:
    """For each kind: steps of an undisturbed run, and the file that comes of it."""
    found = {}
    for kind in KINDS:
        medium, run = TornMedium(), Run(kind, some_history(5, SIZE), SIZE)
        run.go(medium)
        assert_exact(medium, kind, run.truth())
        found[kind] = (medium.steps, content_on(medium, kind))
    return found


def test_power_fails_at_every_step(kind: DiskKind, whole_runs: dict[DiskKind, tuple[int, bytes]]):
    steps, whole = whole_runs[kind]
    for cut in range(1, steps + 1):
        run, random = Run(kind, some_history(5, SIZE), SIZE), Random(cut)
        medium = TornMedium(cut)
        with pytest.raises(PowerCut):
            run.go(medium)
        medium = medium.recovered(random, cut_at=random.choice((None, 3, 8, 20)))
        was_disk = is_disk(medium, kind)
        if was_disk:
            assert run.cursor == len(run.steps)
            assert_exact(medium, kind, run.truth())
        run.tries += 1
        with contextlib.suppress(PowerCut):
            _go_on(run, medium)
        if medium.cut_at is not None:
            medium = medium.recovered(random)
            if was_disk:
                assert is_disk(medium, kind)
                assert_exact(medium, kind, run.truth())
            _go_on(run, medium)
        assert_exact(medium, kind, run.truth())
        if kind in (DiskKind.RAW, DiskKind.VHD_FIXED, DiskKind.VMDK_FLAT):
            assert content_on(medium, kind) == whole
        names = {path for path in medium.names if path.suffix != ".edges"}
        assert names == {PATH, content_path(PATH, kind)}


def test_killed_at_every_step_and_then_the_power_fails(
    kind: DiskKind, whole_runs: dict[DiskKind, tuple[int, bytes]]
):
    """What a killed process left in the cache, the next one finds: nothing may rest on it that is durable."""
    for cut in range(1, whole_runs[kind][0] + 1):
        run, random = Run(kind, some_history(5, SIZE), SIZE), Random(cut)
        medium = TornMedium(cut)
        with pytest.raises(PowerCut):
            run.go(medium)
        run.tries += 1
        soon = random.choice((None, random.randint(2, 40)))
        medium.cut_at = None if soon is None else medium.steps + soon
        with contextlib.suppress(PowerCut):
            _go_on(run, medium)
        ended = medium.cut_at is None or medium.steps < medium.cut_at
        medium = medium.recovered(random)
        if ended:
            assert is_disk(medium, kind)
        _go_on(run, medium)
        assert_exact(medium, kind, run.truth())


def test_a_raw_disk_that_begins_with_zeros_is_not_finalized_over_its_user(tmp_path: Path):
    path = tmp_path / "volume.raw"
    disk = create_disk(path, DiskKind.RAW, 8 * MIB)
    disk.write(Pieces.single(65_536, b"before".ljust(4096, b"\0")))
    disk.sync()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(disk), "_remove_side_files", lambda _: (_ for _ in ()).throw(PowerCut))
        with pytest.raises(PowerCut):
            disk.finalize(STAMP)
    with path.open("r+b") as file:  # it is a whole disk, so somebody uses it
        file.seek(65_536)
        file.write(b"after!")
    with open_disk(path) as disk:
        disk.finalize(STAMP)
    assert path.read_bytes()[65_536:][:6] == b"after!"


def _go_on(run: Run, medium: TornMedium) -> None:
    """Go on, unless the disk was finalized to the end."""
    if medium.exists(PATH) and not medium.exists(PATH.parent / SIDE_NAME / f"{PATH.name}.map"):
        assert run.cursor == len(run.steps)
        return
    run.go(medium)


def test_what_is_being_finalized_takes_no_more_points(
    kind: DiskKind, whole_runs: dict[DiskKind, tuple[int, bytes]]
):
    run = Run(kind, some_history(5, SIZE), SIZE)
    medium = TornMedium(whole_runs[kind][0] - 6)
    with pytest.raises(PowerCut):
        run.go(medium)
    medium = medium.recovered(Random(1))
    disk = open_disk(PATH, medium=medium)
    assert disk.is_finalizing
    with pytest.raises(ConfigurationError, match="takes no more points"):
        disk.write(Pieces.single(2 * MIB, b"x"))
    disk.finalize(STAMP)
    assert_exact(medium, kind, run.truth())


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 1 << 32), chosen=st.sampled_from(KINDS), size=st.integers(1, 20), cut=st.booleans()
)
def test_random_writes_against_a_plain_array(seed: int, chosen: DiskKind, size: int, cut: bool):
    size = size * 8192 * (40 if cut else 1)
    random, truth = Random(seed), bytearray(size)
    medium = TornMedium()
    disk = create_disk(PATH, chosen, size, medium=medium)
    for _ in range(6):
        first = 512 * random.randrange(size // 512)
        batch = random_batch(random, size, min(size // 1024, 7)) if random.random() < 0.8 else []
        step = Step((first, min(first + 512 * random.randrange(4000), size)), [batch] if batch else [])
        step.apply(disk)
        step.model(truth)
        if random.random() < 0.5:
            disk.sync()
        if random.random() < 0.3:
            disk.sync()
            disk.close()
            disk = open_disk(PATH, medium=medium)
        first = random.randrange(size)
        length = random.randint(0, size - first)
        assert disk.read(first, length) == truth[first : first + length]
    assert disk.read(0, size) == truth
    disk.finalize(STAMP)
    found = read_whole(io.BytesIO(content_on(medium, chosen)), chosen, size)
    assert found == truth


@pytest.mark.parametrize("size", [SIZE, 512 * 3, 5 * MIB + 512, 36 * MIB])
def test_other_programs_agree(kind: DiskKind, size: int, tmp_path: Path):
    path, truth_path = tmp_path / "disk.img", tmp_path / "truth.raw"
    truth = bytearray(size)
    history = some_history(size, size)
    with create_disk(path, kind, size) as disk:
        for step in history:
            step.apply(disk)
            step.model(truth)
            disk.sync()
        content = content_path(path, kind)
        assert json.loads(qemu_img("info", "--output=json", content).stdout)["format"] == "raw"
        assert blkid_says(content) == ""
        assert not path.exists() or path.read_bytes()[:HIDDEN_BYTES] in (
            bytes(HIDDEN_BYTES),
            bytes(size),
            b"",
        )
        disk.finalize(STAMP)
    truth_path.write_bytes(truth)
    driver = qemu_driver(kind)
    done = qemu_img("compare", "-f", driver, "-F", "raw", path, truth_path)
    assert done.returncode == 0, done.stdout + done.stderr
    info = json.loads(qemu_img("info", "--output=json", "-f", driver, path).stdout)
    assert info["virtual-size"] == size
    if kind in CHECKABLE:
        done = qemu_img("check", "-f", driver, path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "leaked" not in done.stdout + done.stderr
    if size % DISSECT_UNIT == 0:
        with content_path(path, kind).open("rb") as file:
            assert read_whole(file, kind, size) == truth


def test_zeros_take_no_room(kind: DiskKind, tmp_path: Path):
    size = 96 * MIB
    path = tmp_path / "disk.img"
    with create_disk(path, kind, size) as disk:
        for offset in range(0, size, 16 * MIB):
            disk.write(Pieces.single(offset, bytes(16 * MIB)))
        disk.write(Pieces.single(48 * MIB, b"x" * 512))
        disk.write(Pieces.single(32 * MIB, b"y" * MIB))
        disk.sync()
        disk.zero(16 * MIB, 48 * MIB)
        disk.finalize(STAMP)
    assert content_path(path, kind).stat().st_blocks * 512 < MIB


def test_the_same_stamp_gives_the_same_bytes(kind: DiskKind, tmp_path: Path):
    found = set()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "disk.img"
        with create_disk(path, kind, SIZE) as disk:
            disk.write(Pieces.single(3 * MIB, b"content"))
            disk.finalize(STAMP)
        found.add(path.read_bytes())
    assert len(found) == 1


def test_a_finalized_disk_takes_nothing_more(kind: DiskKind, tmp_path: Path):
    path = tmp_path / "disk.img"
    with create_disk(path, kind, SIZE) as disk:
        disk.finalize(STAMP)
    with pytest.raises(ConfigurationError, match="no disk that can be rolled on"):
        open_disk(path)
    with pytest.raises(ConfigurationError, match="exists already"):
        create_disk(path, kind, SIZE)


def test_two_at_once_are_refused(kind: DiskKind, tmp_path: Path):
    with create_disk(tmp_path / "disk.img", kind, SIZE), pytest.raises(BusyError):
        open_disk(tmp_path / "disk.img")


def test_a_lost_file_is_told_of(kind: DiskKind, tmp_path: Path):
    path = tmp_path / "disk.img"
    create_disk(path, kind, SIZE).close()
    content_path(path, kind).unlink()
    with pytest.raises(RestoreError, match="is gone"):
        open_disk(path)


def test_damage_within_the_map_is_told_from_a_torn_end(tmp_path: Path):
    path, size = tmp_path / "disk.img", 64 * MIB
    with create_disk(path, DiskKind.VHDX, size) as disk:
        for block in (5, 9, 20):
            disk.write(Pieces.single(block * MIB, b"content"))
            disk.sync()
        serial = disk.serial
    map_path = tmp_path / SIDE_NAME / "disk.img.map"
    good = map_path.read_bytes()
    map_path.write_bytes(good[:-512])
    with pytest.raises(FormatError, match="damaged"):
        open_disk(path, serial=serial)
    with open_disk(path, serial=serial - 1):
        pass
    assert map_path.stat().st_size == len(good) - 512
    map_path.write_bytes(good[:1600] + b"\xff" + good[1601:])
    with pytest.raises(FormatError, match="damaged"):
        open_disk(path)
    for at in range(0, 512, 37):
        map_path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        with pytest.raises(FormatError):
            open_disk(path)


@pytest.mark.parametrize(
    ("kind", "size", "able"),
    [
        (DiskKind.VHD, (2040 << 30) + 512, "vmdk-flat, vhdx, qcow2, raw, device"),
        (DiskKind.VHD_FIXED, 3 << 40, "vmdk-flat, vhdx, qcow2, raw, device"),
        (DiskKind.VMDK, 2 << 40, "vmdk-flat, vhdx, qcow2, raw, device"),
        (DiskKind.VHDX, (64 << 40) + 512, "raw, device"),
    ],
)
def test_too_large_is_refused_with_what_can_hold_it(kind: DiskKind, size: int, able: str, tmp_path: Path):
    with pytest.raises(ConfigurationError, match="too large") as caught:
        create_disk(tmp_path / "disk.img", kind, size)
    assert able in str(caught.value.hint)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [DiskKind.VHD, DiskKind.VMDK, DiskKind.VHDX, DiskKind.QCOW2])
def test_large_disks(kind: DiskKind, tmp_path: Path):
    size = (2040 << 30) - 8192 if kind in (DiskKind.VHD, DiskKind.VMDK) else 3 << 40
    path = tmp_path / "disk.img"
    places = (0, 5 << 30, size // 2, size - 512)
    with create_disk(path, kind, size) as disk:
        for number, offset in enumerate(places):
            disk.write(Pieces.single(offset, bytes([number + 1]) * 512))
        disk.finalize(STAMP)
    info = json.loads(qemu_img("info", "--output=json", "-f", qemu_driver(kind), path).stdout)
    assert info["virtual-size"] == size
    for number, offset in enumerate(places):
        command = ["qemu-io", "-r", "-f", qemu_driver(kind), "-c", f"read -P {number + 1} {offset} 512", path]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
        assert "failed" not in done.stdout
    assert path.stat().st_blocks * 512 < 64 * MIB


def test_unsound_pieces_are_refused(tmp_path: Path):
    with create_disk(tmp_path / "disk.img", DiskKind.VHD, SIZE) as disk:
        for batch in ([(SIZE - 1, b"ab")], [(512, b"a" * 513), (1024, b"b")], [(9, b"a"), (2, b"b")]):
            with pytest.raises(ValueError, match="pieces"):
                disk.write(pieces_of(batch))
        with pytest.raises(ValueError, match="range"):
            disk.zero(5, SIZE + 1)


def test_a_name_that_a_descriptor_cannot_hold(tmp_path: Path):
    with pytest.raises(ConfigurationError, match="name"):
        create_disk(tmp_path / 'a"b.vmdk', DiskKind.VMDK, SIZE)


@needs_root
def test_block_device(tmp_path: Path):
    backing = tmp_path / "backing"
    backing.write_bytes(b"\xaa" * SIZE)
    command = ["losetup", "--find", "--show", str(backing)]
    device = Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
    try:
        truth = bytearray(SIZE)
        with pytest.raises(ConfigurationError, match="folder"):
            create_disk(device, DiskKind.DEVICE, SIZE)
        disk = create_disk(device, DiskKind.DEVICE, SIZE, side_folder=tmp_path / "side")
        history = some_history(3, SIZE)
        for step in history[:2]:
            step.apply(disk)
            step.model(truth)
        disk.sync()
        disk.close()
        assert device.read_bytes()[:512] == bytes(512)
        with open_disk(device, side_folder=tmp_path / "side") as disk:
            history[2].apply(disk)
            history[2].model(truth)
            disk.finalize(STAMP)
        assert device.read_bytes() == truth
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


@needs_root
def test_a_full_medium_says_so_and_goes_on(tmp_path: Path):
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=True)
    try:
        _fill_and_go_on(folder)
    finally:
        subprocess.run(["umount", folder], check=True)


def _fill_and_go_on(folder: Path) -> None:
    content = np.random.default_rng(1).bytes(SIZE)
    with create_disk(folder / "disk.img", DiskKind.QCOW2, SIZE) as disk:
        disk.write(Pieces.single(2 * MIB, content[2 * MIB : 3 * MIB]))
        disk.sync()
        with pytest.raises(RestoreError, match="disk is full"):
            disk.write(Pieces.single(0, content))
        with pytest.raises(RestoreError, match="opened again"):
            disk.sync()
    subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)
    with open_disk(folder / "disk.img") as disk:
        disk.write(Pieces.single(0, content[: 2 * MIB]))
        disk.write(Pieces.single(3 * MIB, content[3 * MIB :]))
        disk.finalize(STAMP)
    with (folder / "disk.img").open("rb") as file:
        assert read_whole(file, DiskKind.QCOW2, SIZE) == content
