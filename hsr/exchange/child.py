"""A writable qcow2 file over a disk that stays as it is: made in no time, whatever the disk's size."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from hashlib import sha256
from pathlib import Path
from typing import Final

from hsr.disks.form import DiskKind, Part
from hsr.exchange.qemu import find_tool
from policies.errors import ConfigurationError, RestoreError
from storage.publish import name_taken, rename_without_replacing, sync_folder

ENDING: Final = ".qcow2"
_DRIVERS: Final = {DiskKind.VHD: "vpc", DiskKind.VHD_FIXED: "vpc", DiskKind.VMDK_FLAT: "vmdk"}
_NAME_BYTES_MAX: Final = 1023
"""So long a path is all that a qcow2 file can hold of its parent."""


class QcowChild:
    """A child of a disk.

    Args:
        path: absolute path of a name that nothing bears, in a folder that exists.
        parent: absolute path of the disk.
        kind: what the disk is.
        patches: what is to stand in the child otherwise than on the disk: offsets and bytes.

    Raises:
        ConfigurationError: the path is no name for it, or qemu's tools are not there.
    """

    def __init__(self, path: Path, parent: Path, kind: DiskKind, patches: Sequence[Part] = ()) -> None:
        if path.suffix.lower() != ENDING:
            raise ConfigurationError(
                f"a child is a qcow2 file, so its name ends in {ENDING}",
                path=str(path),
                hint="For another format say --copy.",
            )
        if not path.parent.is_dir():
            raise ConfigurationError("is no folder", path=str(path.parent))
        if len(os.fsencode(parent)) > _NAME_BYTES_MAX:
            raise ConfigurationError("has a path too long for a child to hold", path=str(parent))
        self._img, self._io = find_tool("qemu-img"), find_tool("qemu-io") if patches else ""
        self._path, self._parent, self._patches = path, parent, patches
        self._driver = _DRIVERS.get(kind, kind.value)
        self._partial = _partial_of(path, parent)

    @property
    def path(self) -> Path:
        """Where it is, or is to be."""
        return self._path

    @property
    def is_made(self) -> bool:
        """Whether something lies under the name that passes."""
        return os.path.lexists(self._partial)

    def make(self) -> None:
        """Make it, durably, under a name that passes.

        Raises:
            RestoreError: it cannot be made.

        Crash: part of it under that name, which the next attempt replaces.
        """
        self.discard()
        self._run(
            self._img, "create", "-q", "-f", "qcow2", "-F", self._driver, "-b", str(self._parent), self._file
        )
        self._write_patches()
        try:
            fd = os.open(self._partial, os.O_RDWR | os.O_CLOEXEC)
            try:
                os.fchmod(fd, 0o640)
                os.fsync(fd)
            finally:
                os.close(fd)
            sync_folder(self._path.parent)
        except OSError as error:
            raise RestoreError(error.strerror or str(error), path=str(self._path)) from error

    @property
    def _file(self) -> str:
        return f"file:{self._partial}"

    def _write_patches(self) -> None:
        if not self._patches:
            return
        with ExitStack() as opened:
            words, fds = [], []
            for offset, content in self._patches:
                fd = os.memfd_create("patch")
                opened.callback(os.close, fd)
                os.write(fd, content)
                words += ["-c", f"write -s /dev/fd/{fd} {offset} {len(content)}"]
                fds.append(fd)
            told = self._run(self._io, "-f", "qcow2", *words, "-c", "flush", self._file, fds=fds)
        if told.count("wrote ") != len(self._patches):
            raise RestoreError("qemu-io did not write all of it", path=str(self._path))

    def _run(self, *command: str, fds: Sequence[int] = ()) -> str:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            pass_fds=fds,
            env={**os.environ, "LC_ALL": "C"},
        )
        if done.returncode != 0:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise RestoreError(
                f"no child can be made: {said[-1] if said else command[0]}", path=str(self._path)
            )
        return done.stdout

    def publish(self) -> None:
        """Give it its name, durably.

        Raises:
            BusyError: the name is taken.
            RestoreError: the file system refuses; it has the name that passes, as before.

        Crash: under its name, or still under the one that passes.
        """
        try:
            rename_without_replacing(self._partial, self._path)
            sync_folder(self._path.parent)
        except OSError as error:
            self._take_name_back()
            if isinstance(error, FileExistsError):
                raise name_taken(self._path) from None
            raise RestoreError(error.strerror or str(error), path=str(self._path)) from error

    def _take_name_back(self) -> None:
        """Have it bear the name that passes, as far as that can be done: an error may come after the deed."""
        with suppress(OSError):
            if not os.path.lexists(self._partial):
                rename_without_replacing(self._path, self._partial)
            elif self._partial.samefile(self._path):
                self._path.unlink()
            sync_folder(self._path.parent)

    def discard(self) -> None:
        """Remove what was made under the name that passes."""
        discard_partial(self._path, self._parent)


def _partial_of(path: Path, parent: Path) -> Path:
    """Return the name that passes: another one for each disk, so that no child is taken for that of another."""
    return path.with_name(f".{sha256(os.fsencode(parent)).hexdigest()[:16]}.rf-child")


def discard_partial(path: Path, parent: Path) -> None:
    """Remove what was made under the name that passes, if anything was.

    Args:
        path: where the child was to be, or is.
        parent: the disk.

    Raises:
        RestoreError: the file system refuses.
    """
    partial = _partial_of(path, parent)
    try:
        partial.unlink(missing_ok=True)
    except NotADirectoryError:
        return
    except OSError as error:
        raise RestoreError(error.strerror or str(error), path=str(partial)) from error


def is_child_of(path: Path, parent: Path) -> bool:
    """Tell whether a file is a qcow2 file over a disk. Neither the disk nor anything else that it names is opened."""
    command = [find_tool("qemu-img"), "info", "-U", "--output=json", "-f", "qcow2", f"file:{path}"]
    done = subprocess.run(command, capture_output=True, check=False)
    return done.returncode == 0 and json.loads(done.stdout).get("backing-filename") == str(parent)
