"""What commands change of HeadStart jobs: in one transaction, told in the event log, known to the job's folder too."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from actors.headstart_device import place_on_device
from actors.headstart_disk import is_same_place, password_place, place_of
from hsr.disks.devices import lasting_name
from hsr.disks.form import DiskKind
from hsr.disks.forms import form_for
from hsr.disks.medium import LocalMedium
from hsr.disks.side_files import SIDE_NAME
from hsr.rolling.cursor_file import Phase
from hsr.rolling.disk import read_standing
from hsr.wrapping.whole_disks import refuse_whole_disk, start_of_point
from hsr.wrapping.wrapping import Wrap
from ops.clock import machine_now
from ops.job_notes import forget_notes, keep_notes
from ops.keeping import Change, find_managed
from ops.location_keeping import named_location, refuse_name
from policies.errors import ChainError, ConfigurationError, FormatError, StorageError
from policies.headstart import LAG_DAYS_MAX, LAG_HOURS_MAX, DiskState, lag_text, parse_lag
from policies.restore_tests import NO_TESTING, RestoreTesting
from storage.catalog.attempts import retry_attempt
from storage.catalog.chains import chains_of_folder
from storage.catalog.events import record_event
from storage.catalog.headstart import (
    JobTraits,
    add_job,
    all_jobs,
    disks_of_job,
    find_job,
    jobs_with_disks,
    make_job_due,
    newest_chain,
    remove_job,
    set_testing,
)
from storage.catalog.headstart_models import HeadStartJob, JobState
from storage.catalog.locations import disk_path
from storage.catalog.models import Attempt, Chain, EventKind, Folder, Image, ImageState, WorkKind
from storage.catalog.points import span_of
from storage.chain import load_chain
from storage.credentials import Credentials

if TYPE_CHECKING:
    from sqlalchemy.orm import Query, Session

    from ops.catalogue_access import Desk
    from ops.passwords import PasswordSource

_ENDINGS: Final = {DiskKind.VHD_FIXED: "vhd", DiskKind.VMDK_FLAT: "vmdk"}


@dataclass(frozen=True, slots=True)
class JobWishes:
    """What is wished of a new job.

    Attributes:
        name: what it is to be called.
        folder: the managed folder.
        location: name of a location.
        subfolder: below it; None for the folder's name.
        kind: what its disks are to be.
        wrap: what is put around each volume.
        lag: as `policies.headstart.parse_lag` reads it.
        volumes: the volumes; all, if none is named.
        testing: how its disks are tested.
        device: the block device that is to become the disk of the one volume; None for files.
        overwrite: whether what lies on the device may go.
    """

    name: str
    folder: Path
    location: str
    subfolder: str | None = None
    kind: DiskKind = DiskKind.VHD
    wrap: Wrap = Wrap.NONE
    lag: str = "0"
    volumes: tuple[str, ...] = field(default=())
    testing: RestoreTesting = NO_TESTING
    device: Path | None = None
    overwrite: bool = False


class HeadStartKeeping:
    """Changes jobs within one transaction.

    Args:
        desk: clock, and what passwords are sealed with.
        session: of a write transaction.
        who: who wants it.
    """

    def __init__(self, desk: Desk, session: Session, who: str) -> None:
        self._desk, self._session, self._who = desk, session, who
        self._now = desk.clock()

    def add(self, wishes: JobWishes, passwords: PasswordSource) -> HeadStartJob:
        """Save a new job.

        Args:
            wishes: what it is to be.
            passwords: where the password of an encrypted chain comes from.

        Raises:
            ConfigurationError: something of it cannot be: field, value and range are named.
            PasswordError: a volume is encrypted, and the password is wrong, or there is none.
        """
        refuse_name(wishes.name, "job")
        if find_job(self._session, wishes.name) is not None:
            raise ConfigurationError(f"there is a job {wishes.name!r} already", path="the command line")
        lag = checked_lag(wishes.lag)
        folder = find_managed(self._session, wishes.folder)
        location = named_location(self._session, wishes.location)
        subfolder = checked_subfolder(
            offered_subfolder(folder) if wishes.subfolder is None else wishes.subfolder
        )
        chains = self._chains(folder, wishes.volumes)
        disks = _disks(chains, wishes)
        for chain, (_, name) in zip(chains, disks, strict=True):
            path = Path(location.path) / subfolder / name
            self._refuse_taken(path)
            if wishes.device is not None:
                _refuse_left(path, Path(location.path) / subfolder / SIDE_NAME)
            self._refuse_size(chain, wishes, path)
        password = _password(folder, chains, passwords)
        if wishes.wrap is not Wrap.NONE:
            _refuse_whole_disks(folder, chains, passwords)
        traits = JobTraits(
            wishes.name,
            subfolder,
            wishes.kind.value,
            wishes.wrap.value,
            round(lag.total_seconds()),
            testing=wishes.testing,
        )
        job = add_job(self._session, folder, location, traits, disks, now=self._now)
        self._seal(job, password)
        self._session.flush()
        if wishes.device is not None:
            self._refuse_unproven(job)
        keep_notes(self._session, job)
        self._note(job, f"HeadStart job saved: {', '.join(volume for volume, _ in disks)}")
        return job

    def set_state(self, job: HeadStartJob, state: JobState) -> list[Change]:
        """Pause a job, or have it go on."""
        if job.state is state:
            return []
        change = Change(f"job {job.name}", "state", job.state.value, state.value)
        job.state = state
        for disk in disks_of_job(self._session, job.id):
            if disk.state is not DiskState.FINALIZED and state is JobState.PAUSED:
                disk.state, disk.reason = DiskState.PAUSED, ""
        make_job_due(self._session, job.id)
        keep_notes(self._session, job)
        self._note(job, change.words)
        return [change]

    def set_testing(self, job: HeadStartJob, testing: RestoreTesting) -> list[Change]:
        """Say how a job's disks are tested from now on; what was dropped or set aside before is tried again."""
        if job.testing == testing:
            return []
        change = Change(f"job {job.name}", "test", job.testing.words, testing.words)
        set_testing(job, testing)
        for volume in [disk.volume for disk in disks_of_job(self._session, job.id)]:
            mine = _work_on(self._session, job, volume)
            mine.filter_by(kind=WorkKind.RESTORE_TEST, holder=None).delete()
        make_job_due(self._session, job.id)
        keep_notes(self._session, job)
        self._note(job, change.words)
        return [change]

    def set_password(self, job: HeadStartJob, passwords: PasswordSource) -> list[Change]:
        """Give a job the password of its chains anew; what failed for want of it is tried again.

        Raises:
            ConfigurationError: none of its volumes is encrypted.
            PasswordError: the password is wrong.
        """
        folder = self._session.get_one(Folder, job.folder_id)
        volumes = tuple(disk.volume for disk in disks_of_job(self._session, job.id))
        password = _password(folder, self._chains(folder, volumes), passwords)
        if password is None:
            raise ConfigurationError(f"no volume of job {job.name!r} is encrypted", path=folder.path)
        self._seal(job, password)
        for volume in volumes:
            for row in _work_on(self._session, job, volume):
                retry_attempt(self._session, row.id)
        make_job_due(self._session, job.id)
        keep_notes(self._session, job)
        change = Change(f"job {job.name}", "password", "as it was", "another one")
        self._note(job, "another password was given")
        return [change]

    def delete(self, job: HeadStartJob) -> list[Change]:
        """Forget a job; the files of its disks stay, as far as they were not removed before."""
        self._note(job, "HeadStart job deleted")
        forget_notes(self._session, job)
        for disk in disks_of_job(self._session, job.id):
            _work_on(self._session, job, disk.volume).delete()
        name = job.name
        remove_job(self._session, job, now=self._now)
        return [Change(f"job {name}", "kept", "yes", "no")]

    def _chains(self, folder: Folder, wanted: tuple[str, ...]) -> list[Chain]:
        """Return the newest chain of each volume; of all volumes, if none is named."""
        newest: dict[str, Chain] = {}
        for chain in chains_of_folder(self._session, folder.id):
            newest[chain.volume] = chain
        if not newest:
            raise ConfigurationError(
                "holds no base image that is known",
                path=folder.path,
                hint="The agent takes up what lies in its folders; is it running?",
            )
        for volume in wanted:
            if volume not in newest:
                raise ConfigurationError(
                    f"--volume {volume!r} is none of this folder",
                    path=folder.path,
                    expected=f"one of {', '.join(sorted(newest))}",
                )
        chains = [newest[volume] for volume in dict.fromkeys(wanted or sorted(newest))]
        for chain in chains:
            self._refuse_foreign(folder, chain)
        return chains

    def _refuse_foreign(self, folder: Folder, chain: Chain) -> None:
        images = self._session.query(Image).filter_by(chain_id=chain.id)
        if images.count() and all(image.assumed for image in images):
            raise ConfigurationError(
                f"the images of {chain.volume!r} are in a container that cannot be read: no disk can be made of them",
                path=folder.path,
                hint="Name other volumes with --volume.",
            )

    def _refuse_size(self, chain: Chain, wishes: JobWishes, path: Path) -> None:
        images = self._session.query(Image).filter_by(chain_id=chain.id, assumed=False)
        spans = [span for image in images if image.state is not ImageState.BAD and (span := span_of(image))]
        size = max((point.volume_bytes for span in spans for point in span.covers), default=0)
        if size:
            job = HeadStartJob(name=wishes.name, wrap=wishes.wrap.value)
            form_for(path, wishes.kind, place_of(job, size).disk_bytes)
            if wishes.device is not None:
                place_on_device(path, job, size, overwrite=wishes.overwrite)

    def _refuse_unproven(self, job: HeadStartJob) -> None:
        """A device is taken at once, which takes a base."""
        for disk in disks_of_job(self._session, job.id):
            if newest_chain(self._session, job, disk) is None:
                raise ConfigurationError(
                    f"no verified base of {disk.volume!r} is there yet, and a device is taken at once",
                    hint="Try again once the agent has verified one.",
                )

    def _refuse_taken(self, path: Path) -> None:
        for job, disk, location, _ in jobs_with_disks(self._session):
            if is_same_place(disk_path(location, job, disk), path):
                raise ConfigurationError(f"is where job {job.name!r} keeps a disk", path=str(path))
        if LocalMedium().exists(path) and not path.is_block_device():
            raise ConfigurationError(
                "exists already", path=str(path), hint="Choose another --subfolder, or move it away."
            )

    def _seal(self, job: HeadStartJob, password: bytes | None) -> None:
        if password is not None:
            wanted = Credentials(job.name, password)
            job.password = self._desk.seal.seal(wanted, password_place(job.uid))

    def _note(self, job: HeadStartJob, text: str) -> None:
        record_event(
            self._session,
            EventKind.SETTINGS_CHANGED,
            f"HeadStart job {job.name}",
            text,
            at=self._now,
            machine_now=machine_now(),
            folder_id=job.folder_id,
            facts={"by": self._who},
        )


def _work_on(session: Session, job: HeadStartJob, volume: str) -> Query[Attempt]:
    """Return what is recorded of work on a disk, tests of its points included."""
    kinds = (WorkKind.HEADSTART, WorkKind.RESTORE_TEST)
    return session.query(Attempt).filter(Attempt.kind.in_(kinds), Attempt.subject == f"{job.uid} {volume}")


def named_job(session: Session, name: str) -> HeadStartJob:
    """Find a job by its name.

    Raises:
        ConfigurationError: there is none.
    """
    job = find_job(session, name)
    if job is None:
        known = ", ".join(repr(one.name) for one in all_jobs(session))
        raise ConfigurationError(
            f"there is no HeadStart job {name!r}",
            expected=f"one of {known}" if known else None,
            hint="`rollforward hsr list` shows them; `rollforward hsr add` saves one.",
        )
    return job


def checked_lag(words: str) -> timedelta:
    """Read a lag that was typed in.

    Raises:
        ConfigurationError: it is none.
    """
    lag = parse_lag(words)
    if lag is None:
        raise ConfigurationError(
            f"--lag {words!r} is no lag",
            path="the command line",
            expected=f"0, 1h to {LAG_HOURS_MAX}h, or 1d to {LAG_DAYS_MAX}d",
        )
    return lag


def checked_subfolder(words: str) -> str:
    """Return a subfolder of a location as it is kept.

    Raises:
        ConfigurationError: it leads out of the location.
    """
    path = PurePosixPath(words)
    if (
        path.is_absolute()
        or ".." in path.parts
        or not words.isprintable()
        or ".rollforward-hsr" in path.parts
    ):
        raise ConfigurationError(
            f"--subfolder {words!r} is no folder below the location",
            path="the command line",
            expected="a relative path without '..'",
        )
    return "" if str(path) == "." else str(path)


def _disks(chains: list[Chain], wishes: JobWishes) -> list[tuple[str, str]]:
    """Return each volume with the name of its disk's file, or the lasting name of its device."""
    if wishes.device is None:
        return [(chain.volume, file_name(chain.volume, wishes.kind)) for chain in chains]
    if len(chains) > 1:
        raise ConfigurationError(
            "a device holds one volume, and the folder has several",
            path=str(wishes.device),
            expected=f"--volume with one of {', '.join(chain.volume for chain in chains)}",
        )
    if not wishes.device.is_block_device():
        raise ConfigurationError("is no block device", path=str(wishes.device))
    return [(chains[0].volume, str(lasting_name(wishes.device)))]


def _refuse_left(path: Path, side_folder: Path) -> None:
    """Make sure that nothing tells of an unfinished disk on a device that another job left."""
    try:
        standing = read_standing(path, side_folder=side_folder)
        is_free = standing is None or standing.phase is Phase.FINALIZED
    except FormatError:
        is_free = False
    if not is_free:
        raise ConfigurationError(
            f"an unfinished disk on {path.name} was left here",
            path=str(side_folder),
            hint="Choose another --subfolder, or remove what is there of it.",
        )


def offered_subfolder(folder: Folder) -> str:
    """Return the subfolder that is taken where none is named: the folder's own name."""
    name = Path(folder.path).name
    return name if name.isprintable() else ""


def file_name(volume: str, kind: DiskKind) -> str:
    """Return what the file of a volume's disk is called."""
    return f"{volume}.{_ENDINGS.get(kind, kind.value)}"


def lag_of(job: HeadStartJob) -> str:
    """Say a job's lag as it is typed in."""
    return lag_text(timedelta(seconds=job.lag_s))


def _password(folder: Folder, chains: list[Chain], passwords: PasswordSource) -> bytes | None:
    """Return the password that opens all encrypted chains of some; None if none is encrypted."""
    from ops.passwords import key_of

    password = None
    for chain in chains:
        loaded = load_chain(Path(folder.path), chain.volume, chain.base_number)
        if key_of(loaded, passwords, insist=False) is not None:
            password = passwords.known(chain.volume)
    return password


def _refuse_whole_disks(folder: Folder, chains: list[Chain], passwords: PasswordSource) -> None:
    """Make sure that no volume that is to be wrapped is a disk itself; what cannot be read now is looked at later."""
    from ops.passwords import key_of

    for chain in chains:
        loaded = load_chain(Path(folder.path), chain.volume, chain.base_number)
        try:
            images = loaded.path_to(loaded.newest())
            start = start_of_point(images, key_of(loaded, passwords, insist=False))
        except (ChainError, FormatError, StorageError):
            continue
        refuse_whole_disk(start, chain.volume)
