"""HeadStart jobs as their folders remember them, and how a new catalogue learns of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ops.words import plain
from policies.errors import RollforwardError
from storage.catalog.headstart_models import HeadStartJob
from storage.catalog.job_memory import note_of
from storage.catalog.models import Folder
from storage.job_notes import remove_job_note, write_job_note

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


def keep_notes(session: Session, job: HeadStartJob) -> None:
    """Have a job's folder remember it as it is; one that cannot is told of, and remembers what it did.

    Args:
        session: of a write transaction.
        job: the job.

    Crash: the folder remembers what it did before, or this.
    """
    folder = session.get_one(Folder, job.folder_id)
    try:
        write_job_note(Path(folder.path), note_of(session, job))
    except RollforwardError as error:
        _tell(f"the folder does not remember job {job.name!r}, should the catalogue be lost: {error}")


def forget_notes(session: Session, job: HeadStartJob) -> None:
    """Have a job's folder forget it."""
    folder = session.get_one(Folder, job.folder_id)
    try:
        remove_job_note(Path(folder.path), job.uid)
    except RollforwardError as error:
        _tell(f"the folder still remembers job {job.name!r}: {error}")


def _tell(words: str) -> None:
    click.secho(f"  {plain(words)}", fg="yellow", err=True)
