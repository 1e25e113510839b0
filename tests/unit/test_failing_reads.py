"""Every read of every operation fails once, or finds that the file was cut off: an error that names file and offset."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from hsr.restore import restore
from policies.errors import MissingPointError, RollforwardError, SourceError, StorageError, TruncatedError
from storage.chain import load_chain
from storage.consolidate import consolidate
from storage.image import ImageReader
from storage.verify import verify_image
from tests.failing_reads import failing_reads
from tests.unit.tiny import BLOCK, TinyVolume, names, noise, open_files

Operation = Callable[[TinyVolume], object]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> TinyVolume:
    """A base of some segments, two incrementals."""
    tiny = TinyVolume(tmp_path_factory.mktemp("failing") / "made")
    first = noise(36 * BLOCK, 1)
    second = first[: 5 * BLOCK] + noise(700, 2) + first[5 * BLOCK + 700 :]
    tiny.capture_states([first, second, second[: 8 * BLOCK + 100]])
    tiny.raw.write_bytes(noise(BLOCK, 3) + second[BLOCK : 9 * BLOCK])
    return tiny


def spans(tiny: TinyVolume, *numbers: int) -> list[Path]:
    return [tiny.image(number) for number in numbers]


def open_header(tiny: TinyVolume) -> object:
    with ImageReader(tiny.image(1)) as image:
        return list(image.iter_records())


def verify(tiny: TinyVolume) -> object:
    return verify_image(tiny.image(), from_medium=False)


def verify_deep(tiny: TinyVolume) -> object:
    return verify_image(tiny.image(), deep=True, from_medium=False)


def merge(tiny: TinyVolume) -> object:
    return consolidate(spans(tiny, 1, 2), tiny.image(2, "-cd"))


def merge_full(tiny: TinyVolume) -> object:
    return consolidate(spans(tiny, 0, 1, 2), tiny.folder / "D_VOL-b001-i002.spf")


def restore_newest(tiny: TinyVolume) -> object:
    return restore(spans(tiny, 0, 1, 2), tiny.raw.with_name("restored.raw"))


def capture_incremental(tiny: TinyVolume) -> object:
    return tiny.capture()


def capture_without_fingerprints(tiny: TinyVolume) -> object:
    shutil.rmtree(tiny.folder / ".rollforward")
    (tiny.folder / ".rollforward").mkdir()
    return tiny.capture()


def capture_base(tiny: TinyVolume) -> object:
    return tiny.capture(new_base=True)


CAPTURES: list[Operation] = [capture_incremental, capture_without_fingerprints]
OPERATIONS: list[Operation] = [
    open_header,
    verify,
    verify_deep,
    merge,
    merge_full,
    restore_newest,
    *CAPTURES,
    capture_base,
]


def fresh(made: TinyVolume, home: Path) -> TinyVolume:
    shutil.rmtree(home / "tiny", ignore_errors=True)
    return made.copy(home / "tiny")


def visible(tiny: TinyVolume) -> list[str]:
    return names(tiny.folder) + names(tiny.folder.parent)


def tried(operation: Operation, tiny: TinyVolume) -> RollforwardError | str | None:
    """Return what went wrong: an error, or the reason of a verification that found an image bad."""
    try:
        found = operation(tiny)
    except RollforwardError as error:
        return error
    return getattr(found, "reason", None)


@pytest.mark.parametrize("letter", ["E", "0"])
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_every_read_once(operation: Operation, letter: str, made: TinyVolume, quick_path: Path):
    """The medium fails at one read after the other, until an operation gets by without so many."""
    before_files, before_threads = open_files(), threading.active_count()
    for good_reads in range(400):
        tiny = fresh(made, quick_path)
        before = visible(tiny)
        with failing_reads("." * good_reads + letter + ".") as script:
            wrong = tried(operation, tiny)
        if not script.spoilt:
            assert wrong is None
            break
        ((path, offset),) = script.spoilt
        if wrong is None and goes_on_without(operation, letter):
            assert ".sp" in path  # the header of an older image, when the chain was looked at
            chain = load_chain(tiny.folder)
            restore(chain.path_to(chain.newest()), quick_path / "x.raw", overwrite=True)
            assert (quick_path / "x.raw").read_bytes() == tiny.raw.read_bytes()
            continue
        says_so(wrong, letter, path, offset)
        assert visible(tiny) == before
        assert open_files() == before_files
        assert threading.active_count() == before_threads
    else:
        raise AssertionError("so many reads for so small images")
    assert good_reads > 3


def goes_on_without(operation: Operation, letter: str) -> bool:
    """A new base needs no older image; an incremental goes on from an older point when a later image is damaged."""
    return operation is capture_base or (operation in CAPTURES and letter == "0")


def says_so(wrong: RollforwardError | str | None, letter: str, path: str, offset: int) -> None:
    """What went wrong is told, with the file and the very offset."""
    where = f"at byte {offset:,}"
    if isinstance(wrong, str):
        assert letter == "0"
        assert where in wrong
        return
    assert wrong is not None, f"{path} {where}: nobody noticed"
    kinds = (StorageError, SourceError) if letter == "E" else (TruncatedError, SourceError, MissingPointError)
    assert isinstance(wrong, kinds), wrong
    assert Path(path).name in str(wrong)
    assert where in str(wrong)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_reads_that_give_single_bytes_now_and_then(operation: Operation, made: TinyVolume, quick_path: Path):
    for letters in ("1", ".1" * 40 + ".", "..1" * 40 + "."):
        if letters == "1" and operation is not open_header:
            continue  # every byte by itself: right, but slow
        tiny = fresh(made, quick_path)
        with failing_reads(letters):
            assert tried(operation, tiny) is None
