"""HeadStart disks on a share of a real smbd: exact in every kind, and after its server was killed at work."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import actors.headstart
from hsr.disks.form import DiskKind
from hsr.exchange.child import QcowChild
from hsr.rolling.disk import RollingDisk, read_standing
from hsr.rolling.lending import take_back
from policies.cursor import roll_on_path
from policies.errors import RestoreError, RollforwardError
from policies.headstart import DiskState
from storage.catalog import EventKind
from tests.commands import run, sha256_of
from tests.disk_readers import CHECKABLE, qemu_driver
from tests.failing_medium import needs_fuse
from tests.household import VOLUME, Household
from tests.integration.agent_run import AgentRun, wait_for
from tests.integration.conftest import Stock
from tests.integration.test_headstart_agent import command, disk_of, land, stands_at
from tests.loop import small_file_system
from tests.office import Office
from tests.rolling_world import JOB, RollingWorld, make_world
from tests.smb_share import PASSWORD, USER, MountedShare, SmbServer

pytestmark = needs_fuse

MORNING = datetime(2026, 3, 2, 6, tzinfo=UTC)
HOUR = timedelta(hours=1)
KINDS = [kind for kind in DiskKind if kind is not DiskKind.DEVICE]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> RollingWorld:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmbServer]:
    with SmbServer(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def share(server: SmbServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MountedShare]:
    if not server.is_running:
        server.start()
    with MountedShare(server, tmp_path_factory.mktemp("client")) as mounted:
        yield mounted


@pytest.fixture
def folder(share: MountedShare, request: pytest.FixtureRequest) -> Path:
    """A folder of the test's own on the share."""
    made: Path = share.folder / request.node.name.replace("[", "-").replace("]", "")
    made.mkdir()
    return made


def images_to(world: RollingWorld, disk: RollingDisk, number: int) -> list[Path]:
    path = roll_on_path(disk.cursor, list(world.spans), world.points[number].id)
    assert path is not None
    return world.paths(path)


def must_equal(disk: Path, kind: DiskKind, truth: bytes, scratch: Path) -> None:
    """Have qemu read a finalized disk, and compare it."""
    raw = scratch / "truth.raw"
    raw.write_bytes(truth)
    driver = qemu_driver(kind)
    assert "identical" in run("qemu-img", "compare", "-f", "raw", "-F", driver, str(raw), str(disk))
    if kind in CHECKABLE:
        run("qemu-img", "check", "-f", driver, str(disk))


@pytest.mark.parametrize("kind", KINDS)
def test_a_disk_of_every_kind_is_exact(world: RollingWorld, folder: Path, tmp_path: Path, kind: DiskKind):
    path, copy = folder / "disk.img", folder / "copy.img"
    with RollingDisk.begin(path, kind, world.place, job_uid=JOB, chain_id=world.chain_id) as disk:
        for number in (1, 2, 4):
            disk.apply(images_to(world, disk, number))
        with pytest.raises(RollforwardError, match="worked on"):
            RollingDisk.open(path)
        assert disk.copy_at(world.points[4], copy)
    with RollingDisk.open(path) as disk:
        disk.apply(images_to(world, disk, 6))
        disk.finalize(world.points[6])
    must_equal(copy, kind, world.truth(world.points[4]), tmp_path)
    must_equal(path, kind, world.truth(world.points[6]), tmp_path)
    assert not list((folder / ".rollforward-hsr").iterdir())


@pytest.mark.parametrize("kind", [DiskKind.VHD, DiskKind.VMDK_FLAT])
def test_a_disk_is_lent_and_taken_back(world: RollingWorld, folder: Path, tmp_path: Path, kind: DiskKind):
    path, child = folder / "disk.img", tmp_path / "child.qcow2"
    with RollingDisk.begin(path, kind, world.place, job_uid=JOB, chain_id=world.chain_id) as disk:
        disk.apply(images_to(world, disk, 4))
        disk.lend_at(world.points[4], QcowChild(child, path, kind))
    must_equal(path, kind, world.truth(world.points[4]), tmp_path)
    must_equal(child, DiskKind.QCOW2, world.truth(world.points[4]), tmp_path)
    take_back(path)
    with RollingDisk.open(path) as disk:
        disk.apply(images_to(world, disk, 6))
        disk.finalize(world.points[6])
    must_equal(path, kind, world.truth(world.points[6]), tmp_path)


@pytest.mark.parametrize(
    ("kind", "before", "goal"),
    [(DiskKind.VHD, None, 0), (DiskKind.VMDK, 1, 2), (DiskKind.VHDX, 0, 6)],
)
def test_a_server_killed_in_the_middle(
    world: RollingWorld,
    server: SmbServer,
    share: MountedShare,
    folder: Path,
    tmp_path: Path,
    kind: DiskKind,
    before: int | None,
    goal: int,
):
    path = folder / "disk.img"
    with RollingDisk.begin(path, kind, world.place, job_uid=JOB, chain_id=world.chain_id) as disk:
        if before is not None:
            disk.apply(images_to(world, disk, before))
        images = images_to(world, disk, goal)
        with pytest.raises(RestoreError):
            disk.apply(images, progress=lambda *_: server.kill())
    with pytest.raises(RollforwardError):
        RollingDisk.open(path)
    share.back()
    with RollingDisk.open(path) as disk:
        assert not disk.cursor.is_closed
        disk.apply(images)
        disk.finalize(world.points[goal])
    must_equal(path, kind, world.truth(world.points[goal]), tmp_path)


def test_a_share_that_is_full_is_gone_on_with_once_there_is_room(world: RollingWorld, tmp_path: Path):
    home = tmp_path / "client"
    home.mkdir()
    with (
        small_file_system(tmp_path, 12 << 20) as small,
        SmbServer(tmp_path / "server", small) as server,
        MountedShare(server, home) as share,
    ):
        ballast, path = small / "ballast", share.folder / "disk.img"
        with RollingDisk.begin(path, DiskKind.RAW, world.place, job_uid=JOB, chain_id=world.chain_id) as disk:
            with ballast.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, _free(small) - (64 << 10))
            images = images_to(world, disk, 0)
            with pytest.raises(RestoreError, match="full"):
                disk.apply(images)
        ballast.unlink()
        with RollingDisk.open(path) as disk:
            disk.apply(images)
            disk.finalize(world.points[0])
        must_equal(path, DiskKind.RAW, world.truth(world.points[0]), tmp_path)


def _free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    home = Household(tmp_path / "home", MORNING)
    yield Office(tmp_path, home)
    home.catalog.close()


def begin(office: Office, place: Path, *words: str) -> str:
    """Define a location and a job; return all that was printed and logged of it."""
    password_file = office.place / "password"
    password_file.write_text(f"{PASSWORD}\n")
    password_file.chmod(0o600)
    login = ("--user", USER, "--password-file", password_file)
    said = office.do("location", "add", "nas", place, "--address", "smb://127.0.0.1/disks", *login)
    assert said.code == 0, str(said)
    office.capture()
    office.home.settle()
    office.did("hsr", "add", "stand-by", office.home.folder, "--location", "nas", "--subfolder", "", *words)
    office.disks = place
    office.home.settle()
    return str(said)


def test_a_job_whose_server_is_killed_stops_and_goes_on_by_itself(
    office: Office, server: SmbServer, share: MountedShare, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    begin(office, folder, "--format", "vhdx")
    assert office.row().state is DiskState.UP_TO_DATE
    real = actors.headstart.bring_to_goal

    def server_dies(seal: object, view: object, count: int, *_: object) -> object:
        return real(seal, view, count, lambda *_: server.kill(), lambda: False)  # type: ignore[arg-type]

    office.home.now += HOUR
    office.capture()
    with monkeypatch.context() as patched:
        patched.setattr(actors.headstart, "bring_to_goal", server_dies)
        office.home.settle()
    assert office.row().state is DiskState.STOPPED
    reason = office.shown()["reason"]
    assert str(folder) in reason, reason
    office.home.now += HOUR
    office.home.settle()
    assert office.row().state is DiskState.STOPPED
    assert "location 'nas'" in office.row().reason
    ran = office.do("hsr", "finalize", "stand-by")
    assert ran.code == 2, str(ran)
    assert str(folder) in ran.errors
    for words in (("hsr", "show", "stand-by"), ("location", "show", "nas"), ("status",)):
        assert office.do(*words).code in (0, 1), words
    share.back()
    office.home.now += HOUR
    office.home.settle()
    assert (office.row().state, office.row().reason) == (DiskState.UP_TO_DATE, "")
    assert office.is_exact()
    office.did("hsr", "finalize", "stand-by")
    assert office.bytes_of(office.path()) == office.truth[1]


def test_nothing_is_begun_or_looked_for_where_no_share_is_mounted(
    office: Office, server: SmbServer, folder: Path, tmp_path: Path
):
    bare = tmp_path / "mount-point"
    bare.mkdir()
    begin(office, bare)
    assert office.row().state is DiskState.STOPPED
    assert "no share is mounted there" in office.row().reason
    assert not list(bare.iterdir())
    office.did("location", "set", "nas", "--path", folder)
    office.disks = folder
    office.home.settle()
    assert office.stands_at().number == 0
    left = server.root / folder.name
    shutil.copytree(left, bare, dirs_exist_ok=True)  # what lies below the mount point is no disk of the job
    office.did("location", "set", "nas", "--path", bare)
    office.grow()
    assert "no share is mounted there" in office.row().reason
    standing = read_standing(bare / office.row().file_name)
    assert standing is not None
    assert standing.cursor.points[0].number == 0
    office.did("location", "set", "nas", "--path", folder)
    office.home.settle()
    assert office.stands_at().number == 1
    assert office.is_exact()


def test_credentials_are_shown_and_logged_nowhere(office: Office, folder: Path):
    said = begin(office, folder)
    for words in (
        ("location", "show", "nas"),
        ("location", "list"),
        ("config", "export"),
        ("hsr", "show", "stand-by"),
    ):
        said += str(office.do(*words)) + str(office.do(*words, "--json"))
    said += "".join(event.text for kind in EventKind for event in office.home.events(kind))
    assert USER in said
    assert PASSWORD not in said
    kept = [
        path.read_bytes() for path in office.place.rglob("*") if path.is_file() and path.name != "password"
    ]
    assert not any(PASSWORD.encode() in content for content in kept)
    for address in (f"smb://{USER}:{PASSWORD}@nas/disks", f"//{USER}%{PASSWORD}@nas/disks"):
        ran = office.do("location", "set", "nas", "--address", address)
        refused = ran.output + ran.errors
        assert ran.code == 2
        assert "address" in refused
        assert PASSWORD not in refused


def test_a_point_is_exported_to_a_share(office: Office, folder: Path):
    office.capture()
    office.home.settle()
    for ending in ("vhdx", "raw"):
        target = folder / f"{VOLUME}.{ending}"
        office.did("export", office.home.folder, "--volume", VOLUME, "--to", target, "--format", ending)
        assert office.bytes_of(target) == office.truth[0]
    assert sorted(path.name for path in folder.iterdir()) == [f"{VOLUME}.raw", f"{VOLUME}.vhdx"]


def test_an_agent_rolls_on_and_goes_on_after_its_server_was_killed(
    agent: AgentRun, stock: Stock, server: SmbServer, share: MountedShare, folder: Path, tmp_path: Path
):
    land(agent, stock, 0, 1)
    command(agent, "location", "add", "nas", folder, "--address", "smb://127.0.0.1/disks")
    added = command(agent, "hsr", "add", "stand-by", agent.folder, "--location", "nas", "--format", "vmdk")
    path = Path(added[0]["path"])
    wait_for(lambda: stands_at(path) == 1, "the disk to be built")
    wait_for(lambda: disk_of(agent).state is DiskState.UP_TO_DATE, "that to be known")
    server.kill()
    land(agent, stock, 2)
    wait_for(lambda: disk_of(agent).state is DiskState.STOPPED, "that to be told")
    assert str(folder) in disk_of(agent).reason
    share.back()
    agent.advance_until(lambda: disk_of(agent).state is DiskState.UP_TO_DATE)
    land(agent, stock, 3)
    wait_for(lambda: stands_at(path) == 3, "the disk to be rolled on")
    command(agent, "hsr", "finalize", "stand-by")
    raw = tmp_path / "raw"
    run("qemu-img", "convert", "-O", "raw", str(path), str(raw))
    assert sha256_of(raw) == stock.digests[3]
