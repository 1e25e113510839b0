"""Squashing changes what an image stores, and nothing of what it does: alone, beneath others, above them, merged."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from hsr.restore import restore
from policies.reach import shortest_path
from storage.amplification import SquashLimits, survey
from storage.squash import squash
from tests.conformance.second_reader import SecondReader
from tests.property.byte_model import (
    GRANULE_BYTES,
    Image,
    apply,
    apply_path,
    merge,
    without_hidden,
)
from tests.property.test_engine_laws import SCALE, capture_line, merge_some, real_bytes, spans_of
from tests.property.test_law_apply import draw_disk
from tests.property.worlds import CHOICES, World, worlds
from tests.unit.tiny import Password

BLOCK_GRANULES = 4
EVERY_BLOCK = SquashLimits(factor=1, depth=1)
BLOCKS = st.sets(st.integers(0, 2))


def squashed(image: Image, blocks: set[int]) -> Image:
    """Make one frame of what is seen of each of some blocks, its origin the newest point."""
    newest, visible = len(image.span.covers) - 1, image.visible()
    content = {}
    for granule, (origin, value) in image.content.items():
        if granule // BLOCK_GRANULES not in blocks:
            content[granule] = (origin, value)
        elif granule in visible:
            content[granule] = (newest, value)
    return Image(image.span, content)


@given(worlds(), BLOCKS, st.data())
def test_what_is_squashed_is_applied_as_before(world, blocks, data):
    for image in world.images:
        disk = draw_disk(data, world, image)
        made = squashed(image, blocks)
        assert made.visible() == image.visible()
        assert apply(made, disk) == apply(image, disk) == world.state(image.span.end).disk


@given(worlds(), BLOCKS)
def test_no_frame_lies_beyond_the_end_of_its_own_point(world, blocks):
    for image in world.images:
        end_bytes = image.span.end.volume_bytes
        for granule, (origin, value) in squashed(image, blocks).content.items():
            if origin == len(image.span.covers) - 1:
                assert granule * GRANULE_BYTES < end_bytes
                beyond = (granule + 1) * GRANULE_BYTES - end_bytes
                assert beyond <= 0 or not any(value[-beyond:]), "bytes beyond the end are zero"


@given(worlds(gaps=False), BLOCKS, st.data())
def test_what_is_squashed_is_merged_and_laid_over_as_before(world, blocks, data):
    """With older and with newer neighbours, which may have shrunk and grown; hidden granules dropped or not."""
    for below in world.images:
        for above in world.images:
            if above.span.start != below.span.end:
                continue
            plain = merge([below, above], "m")
            disk = draw_disk(data, world, plain)
            for one, other in ((squashed(below, blocks), above), (below, squashed(above, blocks))):
                made = merge([without_hidden(one), without_hidden(other)], "m")
                assert made.visible() == plain.visible()
                assert apply(made, disk) == apply_path([one, other], disk) == apply(plain, disk)
                again = squashed(made, blocks)
                assert again.visible() == plain.visible()


def apply_really(path: Path, disk: bytes, target: Path, password: Password | None) -> bytes:
    """Apply a real image to a disk by the second reader, which knows the format page and nothing else."""
    reader = SecondReader(path, password.password.decode() if password else None)
    target.write_bytes(disk)
    with target.open("r+b") as file:
        reader.apply(file)
    return target.read_bytes()


@settings(max_examples=max(12, settings.default.max_examples // 12))
@given(worlds(gaps=False, more_max=0), st.sampled_from([None, Password()]), st.data())
def test_the_engine_keeps_these_laws(world: World, password: Password | None, data):
    """Real images, merged, squashed, merged with others and lost; and each applied to a mixture of its points."""
    line = [world.states[index] for index in world.line_to(len(world.states) - 1)]
    with TemporaryDirectory() as temporary:
        folder, source, target = Path(temporary, "images"), Path(temporary, "source"), Path(temporary, "raw")
        folder.mkdir()
        key = capture_line(folder, source, line, password)
        merge_some(folder, data)
        for number, span in enumerate(spans_of(folder)):
            other = Path(temporary, f"squashed-{number}")
            other.mkdir()
            before = survey(folder / span.name, EVERY_BLOCK)
            done = squash(folder / span.name, other / span.name, key=key, limits=EVERY_BLOCK)
            assert (done.published is None) == (before.blocks_above == 0)
            if done.published is not None:
                assert (done.after.blocks_above, done.after.depth, done.after.factor) == (0, 1, 1.0)
                held = [*span.covers, span.start or span.end]
                disks = [real_bytes(line[point.number]).ljust(24 * SCALE, b"\0") for point in held]
                choices = [choice for choice in data.draw(CHOICES, "mixture") for _ in range(SCALE)]
                disk = bytes(disks[c % len(disks)][at] for at, c in enumerate(choices))
                found = apply_really(done.published.path, disk, target, password)
                assert found == real_bytes(line[span.end.number])
                shutil.move(folder / span.name, other / "original")
                shutil.move(done.published.path, folder / span.name)
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
