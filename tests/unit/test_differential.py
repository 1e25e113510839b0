"""Differentials, really captured: their names, what they need, what goes on from them, and how they merge."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from policies.errors import ConfigurationError, FormatError, MissingPointError
from policies.names import Tier
from policies.reach import forks, gaps, tips
from storage import capture as capturing
from storage import keys
from storage.capture import capture
from storage.chain import load_chain
from storage.consolidate import consolidate
from storage.fingerprints import fingerprints_path
from storage.image import ImageReader
from storage.squash import squash
from storage.verify import verify_image
from storage.writer import Published
from tests.command import in_this_process
from tests.unit.tiny import BLOCK, GRANULE, START, Password, TinyVolume, names, noise


@pytest.fixture(autouse=True)
def _cheap_guesses(monkeypatch):
    monkeypatch.setattr(keys, "RECOMMENDED_COST", keys.KdfCost(memory_kib=64, passes=1, lanes=1))


def step(volume: TinyVolume, of: int | None = None) -> Published:
    """Write two granules and capture; a differential of a point, if one is named."""
    number = len(volume.states)
    volume.put(number * BLOCK, noise(GRANULE, number))
    volume.put(0, noise(GRANULE, 50 + number))
    made = capture(
        volume.raw,
        volume.folder,
        volume.name,
        now=START + timedelta(hours=number),
        differential_of=of,
        encrypt=volume.password is not None,
        passwords=volume.password,
    )
    volume.states[made.header.end.number] = volume.raw.read_bytes()
    return made


def lived(home: Path, password: Password | None = None) -> TinyVolume:
    """A base, two incrementals, a differential of the base, two incrementals on it, and one of those."""
    volume = TinyVolume(home, password=password)
    volume.raw.write_bytes(noise(8 * BLOCK + 100))
    for of in (None, None, None, 0, None, None, 4, None):
        step(volume, of)
    return volume


@pytest.fixture(params=["plain", "encrypted"])
def volume(request, quick_path) -> TinyVolume:
    return lived(quick_path / "v", Password() if request.param == "encrypted" else None)


NAMES = [
    "D_VOL-b001.spf",
    "D_VOL-b001-i001.spi",
    "D_VOL-b001-i002.spi",
    "D_VOL-b001-d003.spi",
    "D_VOL-b001-d003-i004.spi",
    "D_VOL-b001-d003-i005.spi",
    "D_VOL-b001-d006.spi",
    "D_VOL-b001-d006-i007.spi",
]


def test_names_and_kinds(volume):
    chain = load_chain(volume.folder, volume.name)
    assert [image.path.name for image in chain.images] == NAMES
    assert [image.problem for image in chain.images] == [None] * 8
    assert [image.kind for image in chain.images] == [
        "base", "incremental", "incremental", "differential",
        "incremental", "incremental", "differential", "incremental",
    ]  # fmt: skip
    for image in chain.images:
        assert verify_image(image.path, deep=True, key=volume.key()).status == "good"


def test_what_a_differential_covers(volume):
    with ImageReader(volume.folder / "D_VOL-b001-d003.spi") as image:
        assert image.header.start is not None
        assert (image.header.start.number, [point.number for point in image.header.covers]) == (0, [3])
        assert {int(record["block"]) for record in image.read_pages(0, 1)} == {0, 1, 2, 3}
    with ImageReader(volume.folder / "D_VOL-b001-d006.spi") as image:
        assert image.header.start is not None
        assert (image.header.start.number, [point.number for point in image.header.covers]) == (4, [6])


def test_every_state_comes_back_from_just_what_it_needs(volume):
    volume.check()
    for number in (1, 2):
        volume.image(number).unlink()
    (volume.folder / "D_VOL-b001-d003-i005.spi").unlink()
    volume.check(0, 3, 4, 6, 7)
    chain = load_chain(volume.folder, volume.name)
    assert [path.name for path in chain.path_to(chain.point(7))] == [
        "D_VOL-b001.spf",
        "D_VOL-b001-d003.spi",
        "D_VOL-b001-d003-i004.spi",
        "D_VOL-b001-d006.spi",
        "D_VOL-b001-d006-i007.spi",
    ]
    assert gaps(chain.spans) == ()


def test_lines_part_where_a_differential_leaves_points_out(volume):
    """That point 3 came after point 2 is in no header: as far as is known, they are two lines."""
    spans = load_chain(volume.folder, volume.name).spans
    assert [(fork.point.number, [child.number for child in fork.children]) for fork in forks(spans)] == [
        (0, [1, 3]),
        (4, [5, 6]),
    ]
    assert [point.number for point in tips(spans)] == [2, 5, 7]


def test_merging_over_differentials(volume):
    volume.merge(0, 4, "-cd")
    chain = load_chain(volume.folder, volume.name)
    plan = chain.merge(chain.point(0), chain.point(7))
    assert [span.name for span in plan.sources] == [
        "D_VOL-b001-i004-cd.spi",
        "D_VOL-b001-d006.spi",
        "D_VOL-b001-d006-i007.spi",
    ]
    assert [point.number for point in plan.covers] == [3, 4, 6, 7]
    volume.merge(0, 7, "-cm")
    full = chain.merge(None, chain.point(7))
    target = chain.target(full, None)
    assert target.name == "D_VOL-b001-i007.spf"
    consolidate([chain.folder / span.name for span in full.sources], target)
    volume.check(7)
    for name in names(volume.folder):
        if name.endswith(".spi") and name != "D_VOL-b001-i007-cm.spi":
            (volume.folder / name).unlink()
    target.unlink()
    volume.check(0, 7)


def test_what_no_image_joins_is_not_merged(volume):
    chain = load_chain(volume.folder, volume.name)
    for after, upto in ((2, 3), (1, 4), (5, 6), (2, 7)):
        with pytest.raises(MissingPointError):
            chain.merge(chain.point(after), chain.point(upto))


def test_what_stands_on_a_differential_says_so_when_merged(volume):
    chain = load_chain(volume.folder, volume.name)
    named = {
        (3, 5): "D_VOL-b001-d003-i005-cd.spi",
        (3, 7): "D_VOL-b001-d003-i007-cd.spi",
        (0, 3): "D_VOL-b001-i003-cd.spi",
        (0, 2): "D_VOL-b001-i002-cd.spi",
        (4, 7): "D_VOL-b001-i007-cd.spi",
        (6, 7): "D_VOL-b001-d006-i007-cd.spi",
    }
    for (after, upto), name in named.items():
        plan = chain.merge(chain.point(after), chain.point(upto))
        assert chain.target(plan, Tier.DAILY).name == name
        consolidate([chain.folder / span.name for span in plan.sources], chain.folder / name)
        (chain.folder / name).rename(chain.folder.parent / name)
    made = consolidate(
        [volume.folder / "D_VOL-b001-d003-i004.spi", volume.folder / "D_VOL-b001-d003-i005.spi"],
        volume.folder / "D_VOL-b001-d003-i005-cw.spi",
    )
    assert load_chain(volume.folder, volume.name).images[-1].problem is None
    assert squash(made.path, volume.folder.parent / "x.spi", key=volume.key()).published is None


def test_the_next_incremental_is_right_whatever_became_of_the_fingerprints(volume):
    """Those of a differential's capture are those of its own point, not of the one it was compared with."""

    def nothing(*arguments, **named):
        raise AssertionError("the fingerprints should have served")

    path = fingerprints_path(volume.folder, volume.name, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(capturing, "fingerprints_of", nothing)
        step(volume)
    step(volume, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(capturing, "fingerprints_of", nothing)
        step(volume)
    assert names(volume.folder)[-1:] == [path.name] or (volume.folder / "D_VOL-b001-d009-i010.spi").exists()
    path.unlink()
    step(volume, 9)
    step(volume)
    volume.check()


def test_volumes_that_shrank_and_grew(quick_path):
    volume = TinyVolume(quick_path / "v")
    volume.raw.write_bytes(noise(8 * BLOCK + 100))
    step(volume)
    volume.resize(3 * BLOCK + 77)
    step(volume)
    volume.resize(9 * BLOCK)
    step(volume, 0)
    step(volume)
    volume.resize(2 * BLOCK + 5)
    step(volume, 2)
    volume.check()
    chain = load_chain(volume.folder, volume.name)
    plan = chain.merge(chain.point(0), chain.point(4))
    consolidate([volume.folder / span.name for span in plan.sources], chain.target(plan, Tier.DAILY))
    for path in volume.folder.glob("*-d*.spi"):
        path.unlink()
    volume.check(0, 4)


def test_a_differential_of_nothing(quick_path):
    volume = TinyVolume(quick_path / "v")
    volume.raw.write_bytes(noise(BLOCK))
    with pytest.raises(ConfigurationError, match="nothing of 'D_VOL'"):
        step(volume, 0)
    step(volume)
    with pytest.raises(MissingPointError, match="point 3"):
        step(volume, 3)
    step(volume)
    volume.image(1).unlink()
    assert step(volume, 0).path.name == "D_VOL-b001-d001.spi", "the number was free again"


def test_a_differential_where_the_base_is_gone(quick_path):
    volume = TinyVolume(quick_path / "v")
    volume.raw.write_bytes(noise(4 * BLOCK))
    for _ in range(3):
        step(volume)
    consolidate([volume.image(number) for number in range(3)], volume.folder / "D_VOL-b001-i002.spf")
    for number in range(3):
        volume.image(number).unlink()
    with pytest.raises(MissingPointError, match="point 0") as caught:
        step(volume, 0)
    assert "--of" in (caught.value.hint or "")
    assert step(volume, 2).path.name == "D_VOL-b001-d003.spi"
    volume.check(2, 3)


def test_an_unreadable_differential_is_the_newest(volume):
    (volume.folder / "D_VOL-b001-d006-i007.spi").unlink()
    (volume.folder / "D_VOL-b001-d006.spi").write_bytes(b"junk")
    chain = load_chain(volume.folder, volume.name)
    with pytest.raises(FormatError, match="too short"):
        chain.newest()
    made = step(volume)
    assert made.path.name == "D_VOL-b001-d003-i007.spi"


def test_a_point_is_not_taken_before_what_came_before_it(volume):
    made = capture(
        volume.raw, volume.folder, volume.name, now=START, differential_of=0, passwords=volume.password
    )
    newest = max(
        image.header.end.time for image in load_chain(volume.folder, volume.name).images if image.header
    )
    assert made.header.end.time == newest > START


# --- on the command line


def test_the_command(quick_path):
    volume = TinyVolume(quick_path / "v")
    volume.raw.write_bytes(noise(4 * BLOCK))
    into = (volume.raw, "--into", volume.folder, "--volume", volume.name)
    for more, kind, name in (
        ((), "base", "D_VOL-b001.spf"),
        ((), "incremental", "D_VOL-b001-i001.spi"),
        (("--differential",), "differential", "D_VOL-b001-d002.spi"),
        ((), "incremental", "D_VOL-b001-d002-i003.spi"),
        (("--differential", "--of", "1"), "differential", "D_VOL-b001-d004.spi"),
    ):
        volume.put(BLOCK, noise(GRANULE, len(name)))
        ran = in_this_process("capture", *into, *more, "--json")
        assert ran.code == 0, str(ran)
        (told,) = ran.objects
        assert (told["kind"], Path(told["path"]).name) == (kind, name)
    ran = in_this_process("chain", volume.folder)
    assert "fork: the line parts after point 0: 1 and 2" in ran.output
    rows = [line.split() for line in ran.output.splitlines() if ".sp" in line]
    assert [row[-3] for row in rows] == ["base", "incremental", "differential", "incremental", "differential"]
    step_names = ["D_VOL-b001-d002-i003-cd.spi", "D_VOL-b001-i003-cw.spi"]
    for after, tier, name in ((2, "daily", step_names[0]), (0, "weekly", step_names[1])):
        steps = ("--after", str(after), "--upto", "3", "--tier", tier, "--json")
        ran = in_this_process("consolidate", volume.folder, "--volume", volume.name, *steps)
        assert [Path(told["path"]).name for told in ran.objects] == [name], str(ran)
    refused = in_this_process(
        "consolidate",
        volume.folder,
        "--volume",
        volume.name,
        "--after",
        "1",
        "--upto",
        "3",
        "--tier",
        "daily",
    )
    assert refused.code == 4
    assert "no images lead from point 1 to point 3" in refused.errors


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--of", "1"), "give --differential too"),
        (("--differential", "--new-base"), "does not begin a new chain"),
        (("--differential",), "nothing of 'D_VOL'"),
    ],
)
def test_what_the_command_refuses(quick_path, more, words):
    volume = TinyVolume(quick_path / "v")
    volume.raw.write_bytes(noise(BLOCK))
    ran = in_this_process("capture", volume.raw, "--into", volume.folder, "--volume", volume.name, *more)
    assert ran.code == 2, str(ran)
    assert words in ran.errors
    assert not list(volume.folder.glob("*.sp*"))
