"""The project's reader and the second one, which knows the format page alone, agree on every image there is."""

from __future__ import annotations

import ast
import itertools
import random
import shutil
import sys
from datetime import timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hsr.restore import restore
from policies.errors import PasswordError
from policies.reach import shortest_path
from storage.capture import capture
from storage.image import ImageReader
from storage.key_files import unlock
from storage.keys import ChainKey
from storage.verify import verify_image
from tests.commands import run
from tests.conformance.second_reader import NotAnImageError, SecondReader, data_key_of, write_point
from tests.fuzz.decisions import Decisions
from tests.fuzz.spoiling import spoilt
from tests.golden.make_golden import states
from tests.property.byte_model import state_of
from tests.property.test_engine_laws import START, capture_line, merge_some, real_bytes, spans_of
from tests.property.worlds import World, worlds
from tests.unit.forge import sections, take_apart
from tests.unit.test_hostile import spoil
from tests.unit.tiny import Password

HERE = Path(__file__).parent
GOLDEN = sorted((HERE.parent / "golden").glob("D_GOLD-*.sp?"))
LOCKED = sorted((HERE.parent / "golden").glob("D_LOCK-*.sp[fi]"))
KEY_FILE = HERE.parent / "golden" / "D_LOCK-b001.spk"
PASSWORD = "golden"


def second_verdict(path: Path, password: str | None = None) -> str | None:
    """Read everything that an image has; return what is wrong with it."""
    try:
        image = SecondReader(path, password)
        for record in image.records:
            if not record.is_trace and (image.data_key or not image.encrypted):
                image.plain(record)
    except NotAnImageError as error:
        return str(error)
    return None


def must_agree(path: Path, password: str | None = None, key: ChainKey | None = None) -> bool:
    """Hold both verdicts against each other; return whether the image is good."""
    try:
        found = verify_image(path, deep=True, key=key, from_medium=False)
    except PasswordError:  # so it says that it is encrypted: its frames are not looked at
        found = verify_image(path, from_medium=False)
    verdict = second_verdict(path, password)
    assert (found.status == "good") == (verdict is None), f"{found.reason} / {verdict}"
    return verdict is None


@cache
def chain_key() -> ChainKey:
    """Open the encrypted chain by the project's own means."""
    with ImageReader(LOCKED[0]) as image:
        return unlock(KEY_FILE, [image.header], PASSWORD.encode()).key


def test_it_stands_alone():
    source = (HERE / "second_reader.py").read_text()
    imported = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module or "")
    foreign = {name.split(".")[0] for name in imported} - sys.stdlib_module_names
    assert foreign == {"blake3", "zstandard", "cryptography"}


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_it_reads_the_golden_images(path):
    assert must_agree(path)
    with_root = verify_image(path, from_medium=False).root
    assert SecondReader(path).root == with_root


@pytest.mark.parametrize("path", LOCKED, ids=lambda path: path.name)
def test_it_reads_encrypted_images(path, tmp_path):
    assert must_agree(path)
    assert must_agree(path, PASSWORD, chain_key())
    image = SecondReader(path, PASSWORD)
    assert image.data_key == data_key_of(KEY_FILE.read_bytes(), image.chain_id, PASSWORD)
    assert image.metadata["source"] == "volume.raw"
    assert image.has_genuine_slots()
    with pytest.raises(NotAnImageError, match="opens no slot"):
        SecondReader(path, "another password")
    with pytest.raises(NotAnImageError, match="password is needed"):
        write_point(image.covered[-1].id, [SecondReader(other) for other in LOCKED], tmp_path / "x.raw")


@pytest.mark.parametrize("ends", [("",), ("", "-i001", "-i002"), ("", "-i002-cd"), ("-i002",)])
def test_it_writes_encrypted_points(ends, tmp_path):
    wanted = {f"D_LOCK-b001{end}.spf" for end in ends} | {f"D_LOCK-b001{end}.spi" for end in ends if end}
    paths = [
        path for path in LOCKED if path.name in wanted and not (path.name.endswith("2.spf") and len(ends) > 1)
    ]
    images = [SecondReader(path, PASSWORD) for path in paths]
    last = max((image.covered[-1] for image in images), key=lambda point: point.number)
    write_point(last.id, images, tmp_path / "x.raw")
    assert (tmp_path / "x.raw").read_bytes() == states()[last.number]


@pytest.mark.parametrize(
    "kept", [subset for n in (1, 2, 3, 5) for subset in itertools.combinations(GOLDEN, n)]
)
def test_it_writes_the_golden_points_by_every_way(tmp_path, kept):
    images = [SecondReader(path) for path in kept]
    for number, content in enumerate(states()):
        ends = {image.covered[-1].id for image in images if image.covered[-1].number == number}
        try:
            for end in ends:
                write_point(end, images, tmp_path / "x.raw")
                assert (tmp_path / "x.raw").read_bytes() == content
        except NotAnImageError as error:
            assert str(error) == "no way leads there"  # noqa: PT017 (whether there is one is the chain's matter)


def test_it_is_a_program_too(tmp_path):
    run(sys.executable, str(HERE / "second_reader.py"), "1", str(tmp_path / "x.raw"), *map(str, GOLDEN))
    assert (tmp_path / "x.raw").read_bytes() == states()[1]


@settings(max_examples=max(10, settings.default.max_examples // 10))
@given(worlds(gaps=False, more_max=0), st.data())
def test_both_write_the_same_points(world: World, data: st.DataObject):
    line = [world.states[index] for index in world.line_to(len(world.states) - 1)]
    password = data.draw(st.sampled_from([None, None, Password()]), "password")
    words = password.password.decode() if password else None
    with TemporaryDirectory() as temporary:
        folder, source = Path(temporary, "images"), Path(temporary, "source")
        ours, theirs = Path(temporary, "ours.raw"), Path(temporary, "theirs.raw")
        folder.mkdir()
        key = capture_line(folder, source, line, password)
        merge_some(folder, data)
        for span in spans_of(folder):
            assert must_agree(folder / span.name, words, key)
            if not span.is_base and data.draw(st.integers(0, 3), f"lose {span.name}") == 3:
                (folder / span.name).unlink()
        spans = spans_of(folder)
        images = [SecondReader(folder / span.name, words) for span in spans]
        for point in {span.end for span in spans}:
            path = shortest_path(spans, point.id)
            if path is None:
                with pytest.raises(NotAnImageError, match="no way"):
                    write_point(point.id, images, theirs)
                continue
            restore([folder / span.name for span in path], ours, key=key, overwrite=True)
            write_point(point.id, images, theirs)
            assert theirs.read_bytes() == ours.read_bytes() == real_bytes(line[point.number])


def differential(chain: Path, source: Path, base: Path, end: Path) -> Path:
    """Compare the base's point with a later one, and give the result the later one's identity."""
    chain.mkdir()
    shutil.copy(base, chain)
    made = capture(source, chain, "V", now=START + timedelta(days=1)).path
    forged, wanted = take_apart(made.read_bytes()), take_apart(end.read_bytes()).points[-1]
    forged.points[1] |= {name: wanted[name] for name in ("id", "capture_id", "number", "time_us")}
    made.write_bytes(forged.seal())
    return made


@settings(max_examples=max(10, settings.default.max_examples // 10))
@given(st.lists(st.binary(min_size=1, max_size=24), min_size=3, max_size=4))
def test_differentials_too(contents: list[bytes]):
    line = [state_of(bytes([65 + number]), number, content) for number, content in enumerate(contents)]
    with TemporaryDirectory() as temporary:
        folder, source, target = (
            Path(temporary, "images"),
            Path(temporary, "source"),
            Path(temporary, "x.raw"),
        )
        folder.mkdir()
        capture_line(folder, source, line, None)
        base, last = next(folder.glob("*.spf")), max(folder.glob("*.spi"))
        path = [base, differential(Path(temporary, "other"), source, base, last)]
        assert must_agree(path[1])
        images = [SecondReader(image) for image in path]
        assert images[1].covered[-1].id == SecondReader(last).covered[-1].id
        restore(path, target)
        assert target.read_bytes() == real_bytes(line[-1])
        write_point(images[1].covered[-1].id, images, target)
        assert target.read_bytes() == real_bytes(line[-1])


@settings(max_examples=max(100, settings.default.max_examples))
@given(st.sampled_from(GOLDEN), st.data())
def test_both_refuse_the_same_bytes(path: Path, data: st.DataObject):
    """Flipped bits, cuts, growth; and whatever a hostile writer makes, with every digest right."""
    content = bytearray(path.read_bytes())
    kind = data.draw(st.sampled_from(["bit", "cut", "grown", "forged", "forged", "forged"]))
    if kind == "bit":
        part = data.draw(st.sampled_from(sorted(sections(bytes(content)).items(), key=str)))[1]
        content[data.draw(st.sampled_from(part or range(1)))] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "cut":
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    elif kind == "grown":
        content += data.draw(st.binary(min_size=1, max_size=300))
    else:
        image = take_apart(bytes(content))
        for _ in range(data.draw(st.integers(1, 2))):
            spoil(data.draw, image)
        content = bytearray(image.seal())
    with TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as temporary:
        victim = Path(temporary, "x.spi")
        victim.write_bytes(content)
        good = must_agree(victim)
        assert kind == "forged" or not good


@settings(max_examples=max(50, settings.default.max_examples // 3))
@given(st.sampled_from(GOLDEN + LOCKED), st.randoms(use_true_random=False))
def test_both_refuse_what_the_fuzzer_makes(path: Path, chance: random.Random):
    is_locked = path in LOCKED
    with TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as temporary:
        victim = Path(temporary, path.name)
        victim.write_bytes(spoilt(path.read_bytes(), Decisions(chance.randbytes(200))))
        must_agree(victim)
        if is_locked:
            with_key = verify_image(victim, deep=True, key=chain_key(), from_medium=False)
            if with_key.status == "good":
                assert second_verdict(victim, PASSWORD) in (None, "key area", "digest of the key area")


def stored_in_parts(path: Path, content: bytes, part_bytes: int) -> list[Path]:
    """Cut an image into parts beside each other, as the page names them."""
    pieces = [content[at : at + part_bytes] for at in range(0, len(content), part_bytes)]
    is_full = path.name.endswith("-i002.spf")
    stem = path.name if is_full else path.stem
    files = [path, *(path.with_name(f"{stem}.sp{number}") for number in range(1, len(pieces)))]
    for file, piece in zip(files, pieces, strict=True):
        file.write_bytes(piece)
    return files


@settings(max_examples=max(15, settings.default.max_examples // 10))
@given(st.sampled_from(GOLDEN + LOCKED), st.integers(2, 40), st.randoms(use_true_random=False))
def test_sets_of_parts(path: Path, count: int, chance: random.Random):
    content = path.read_bytes()
    with TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as temporary:
        first = Path(temporary, path.name)
        files = stored_in_parts(first, content, -(-len(content) // count))
        assert must_agree(first)
        assert SecondReader(first).root == SecondReader(path).root
        kind, victim = chance.choice(["drop", "swap", "cut", "grow", "empty"]), chance.choice(files[1:])
        if kind == "drop":
            victim.unlink()
        elif kind == "swap":
            here, there = first.read_bytes(), victim.read_bytes()
            first.write_bytes(there)
            victim.write_bytes(here)
        elif kind == "empty":
            victim.write_bytes(b"")
        else:
            victim.write_bytes(victim.read_bytes() + b"\0" if kind == "grow" else victim.read_bytes()[:-1])
        assert not must_agree(first)
