"""Images that land many at once, in several folders: each verified once, none missed. Full size in acceptance."""

from __future__ import annotations

from pathlib import Path

from storage.catalog import EventKind
from tests.checks.landing import burst, make_folders, make_images, one_by_one
from tests.integration.agent_run import AgentRun

POISON = """
import os, signal, sys
if sys.argv[0].endswith("worker.py") or "ops.worker" in sys.orig_argv:
    import storage.verify as engine
    verify_image = engine.verify_image
    def crash(path, **more):
        if path.name == "V-b001-i002.spi":
            os.kill(os.getpid(), signal.SIGKILL)
        return verify_image(path, **more)
    engine.verify_image = crash
"""


def test_a_burst_and_single_images(tmp_path: Path):
    images, folders = make_images(tmp_path, 12), make_folders(tmp_path, 4)
    with AgentRun(tmp_path / "agent", more_folders=folders) as run:
        print(burst(run, images[:8], folders, patience_s=120))
        waits = one_by_one(run, images[8:], run.folder)
        print("seconds from closed to verification begun:", " ".join(f"{wait:.3f}" for wait in waits))


def test_poison_among_many_is_set_aside_and_they_are_not(tmp_path: Path):
    """The image kills the worker from inside, whenever it is read: with others at first, then alone."""
    images = make_images(tmp_path, 6)
    (tmp_path / "sitecustomize.py").write_text(POISON)
    with AgentRun(tmp_path / "agent", {"PYTHONPATH": str(tmp_path)}) as run:
        for image in images:
            (run.folder / image.name).write_bytes(image.read_bytes())
        poison = images[2].name
        healthy = [image.name for image in images if image.name != poison]
        run.advance_until(lambda: run.is_good(*healthy) and run.events(EventKind.QUARANTINED, poison))
        assert [event.subject for event in run.events(EventKind.QUARANTINED)] == [poison]
        assert run.images()[poison].reason == "the worker ended before the work did (3 times)"
        assert len(run.events(EventKind.VERIFIED)) == len(healthy)
        (run.folder / "W-b001.spf").write_bytes(b"no image, but judged all the same")
        run.advance_until(lambda: run.events(EventKind.FOUND_BAD, "W-b001.spf"))
