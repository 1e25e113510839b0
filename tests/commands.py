"""The machine's own tools, as the tests, acceptance checks and benchmarks use them."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path


def sha256_of(path: Path) -> str:
    """Digest a whole file, as hexadecimal SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copy_sparse(source: Path, target: Path) -> None:
    """Copy a raw file, keeping its holes."""
    run("cp", "--sparse=always", "--reflink=auto", str(source), str(target))


def is_clean_ext4(path: Path) -> bool:
    """Ask e2fsck whether a raw file holds an ext4 file system in perfect order."""
    return (
        subprocess.run([tool("e2fsck"), "-fn", str(path)], capture_output=True, check=False).returncode == 0
    )


def run(*command: str, env: dict[str, str] | None = None) -> str:
    """Run a tool and return its output; its complaint goes into the error if it fails."""
    done = subprocess.run(
        [tool(command[0]), *command[1:]],
        capture_output=True,
        text=True,
        errors="replace",  # some tools repeat bytes of the volume
        check=False,
        env={**os.environ, "LC_ALL": "C", **(env or {})},
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def tool(name: str) -> str:
    """Find a tool on PATH or where root's tools live."""
    found = shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if found is None:
        raise FileNotFoundError(f"{name} is not installed; `make test-packages` installs what the tests need")
    return found
