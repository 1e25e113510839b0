"""The engine itself, held to the byte model: real images, captured, merged, thinned out and restored."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from hsr.restore import restore
from policies.points import Span
from policies.reach import shortest_path
from storage import keys
from storage.capture import capture
from storage.consolidate import consolidate
from storage.folder import scan_folder
from storage.key_area import key_file_path
from storage.key_files import unlock
from storage.keys import ChainKey
from tests.property.byte_model import State
from tests.property.worlds import World, worlds
from tests.unit.tiny import Password

SCALE = 256
"""Bytes of the real volume for each byte of the model's: its granules of 2 bytes become ones of 512."""

SUFFIXES = ("-cd", "-cw", "-cm", "-cr")
START = datetime(2026, 3, 2, tzinfo=UTC)


def real_bytes(state: State) -> bytes:
    return b"".join(bytes([value]) * SCALE for value in state.content)


def capture_line(
    folder: Path, source: Path, states: Iterable[State], password: Password | None
) -> ChainKey | None:
    """Capture states one after the other; return the key of the chain, if it is encrypted."""
    headers = []
    with patch.object(keys, "RECOMMENDED_COST", keys.KdfCost(memory_kib=64, passes=1, lanes=1)):
        for index, state in enumerate(states):
            source.write_bytes(real_bytes(state))
            now = START + timedelta(hours=index)
            made = capture(source, folder, "V", now=now, encrypt=password is not None, passwords=password)
            headers.append(made.header)
    return password and unlock(key_file_path(folder, "V", 1), headers, password.password).key


def merge_some(folder: Path, data: st.DataObject) -> None:
    """Merge neighbours, the results of earlier merges among them."""
    for number in range(data.draw(st.integers(0, 4), "merges")):
        spans = spans_of(folder)
        pairs = [(x.name, y.name) for x in spans for y in spans if y.start == x.end]
        if pairs:
            first, second = data.draw(st.sampled_from(pairs), "merged")
            upto = next(span.end.number for span in spans if span.name == second)
            is_full = next(span.is_base for span in spans if span.name == first)
            name = f"V-b001-i{upto:03d}" + (".spf" if is_full else f"{SUFFIXES[number]}.spi")
            if not (folder / name).exists():
                consolidate([folder / first, folder / second], folder / name)


def spans_of(folder: Path) -> list[Span]:
    found = scan_folder(folder)
    assert [image.problem for image in found] == [None] * len(found)
    return [image.span() for image in found]


@settings(max_examples=max(10, settings.default.max_examples // 16))
@given(worlds(gaps=False, more_max=0), st.data())
def test_whatever_was_merged_and_lost_restores_exactly_where_a_way_is_left(world: World, data):
    line = [world.states[index] for index in world.line_to(len(world.states) - 1)]
    with TemporaryDirectory() as temporary:
        folder, source, target = Path(temporary, "images"), Path(temporary, "source"), Path(temporary, "raw")
        folder.mkdir()
        key = capture_line(folder, source, line, data.draw(st.sampled_from([None, Password()]), "password"))
        merge_some(folder, data)
        for span in spans_of(folder):
            if data.draw(st.integers(0, 3), f"lose {span.name}") == 3:
                (folder / span.name).unlink()
        spans = spans_of(folder)
        for point in {span.end for span in spans}:
            path = shortest_path(spans, point.id)
            if path is not None:
                restore([folder / span.name for span in path], target, key=key, overwrite=True)
                assert target.read_bytes() == real_bytes(line[point.number])


@settings(max_examples=max(10, settings.default.max_examples // 16))
@given(worlds(gaps=False, more_max=0), st.data())
def test_differentials_of_any_point_keep_the_laws(world: World, data):
    """Captured from whatever point, with volumes that shrink and grow; merged, lost, restored from what is left."""
    line = [world.states[index] for index in world.line_to(len(world.states) - 1)]
    with TemporaryDirectory() as temporary:
        folder, source, target = Path(temporary, "images"), Path(temporary, "source"), Path(temporary, "raw")
        folder.mkdir()
        for number, state in enumerate(line):
            source.write_bytes(real_bytes(state))
            of = data.draw(st.none() | st.integers(0, number - 1), f"{number} is of") if number else None
            made = capture(source, folder, "V", now=START + timedelta(hours=number), differential_of=of)
            leads_from = number - 1 if of is None else of
            assert made.header.end.number == number
            assert made.header.start is None or made.header.start.number == leads_from
            assert len(made.header.covers) == 1
        merge_some(folder, data)
        for span in spans_of(folder):
            if data.draw(st.integers(0, 3), f"lose {span.name}") == 3:
                (folder / span.name).unlink()
        spans = spans_of(folder)
        for point in {span.end for span in spans}:
            path = shortest_path(spans, point.id)
            if path is not None:
                restore([folder / span.name for span in path], target, overwrite=True)
                assert target.read_bytes() == real_bytes(line[point.number])
