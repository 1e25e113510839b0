"""One chain of a folder: its points, the ways to them, and what to say when there is none."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from policies.errors import ConfigurationError, ForkError, FormatError, MissingPointError
from policies.names import Tier
from storage.capture import capture
from storage.chain import load_chain
from tests.unit.tiny import START, TinyVolume, noise


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> TinyVolume:
    """A base, six incrementals, a daily over the first three."""
    tiny = TinyVolume(tmp_path_factory.mktemp("made"))
    tiny.capture_states([noise(3000, seed) for seed in range(7)])
    tiny.merge(0, 3, "-cd")
    return tiny


@pytest.fixture
def week(made: TinyVolume, quick_path: Path) -> TinyVolume:
    """A base, six incrementals, a daily over the first three, to do with as one likes."""
    return made.copy(quick_path / "tiny")


def files(week: TinyVolume, number: int) -> list[str]:
    chain = load_chain(week.folder, week.name)
    return [
        path.name.removeprefix("D_VOL-b001").removesuffix(".spi")
        for path in chain.path_to(chain.point(number))
    ]


def test_the_fewest_images_lead_to_a_point(week):
    assert files(week, 0) == [".spf"]
    assert files(week, 2) == [".spf", "-i001", "-i002"]
    assert files(week, 3) == [".spf", "-i003-cd"]
    assert files(week, 5) == [".spf", "-i003-cd", "-i004", "-i005"]
    week.image(4).unlink()
    with pytest.raises(MissingPointError, match="no gapless way leads to point 5") as caught:
        files(week, 5)
    assert "rollforward chain" in (caught.value.hint or "")


def test_points_by_number_and_by_time(week):
    chain = load_chain(week.folder)
    assert chain.newest().number == 6
    assert chain.point_at(START + timedelta(hours=3, minutes=59)).number == 3
    assert chain.point_at(START + timedelta(hours=3)).number == 3
    assert chain.point_at(START + timedelta(days=300)).number == 6
    with pytest.raises(MissingPointError, match="or before"):
        chain.point_at(START - timedelta(seconds=1))
    with pytest.raises(MissingPointError, match="no image of the chain names point 7"):
        chain.point(7)


def test_a_bad_image_that_may_be_the_reason_is_named(week):
    for number in (5, 6):
        week.image(number).write_bytes(week.image(number).read_bytes()[:-1])
    chain = load_chain(week.folder, week.name)
    assert [image.path for image in chain.unusable] == [week.image(5), week.image(6)]
    assert chain.point(4).number == 4
    for failing in (
        chain.newest,
        lambda: chain.point(5),
        lambda: chain.merge(chain.point(3), chain.point(6)),
    ):
        with pytest.raises(FormatError) as caught:
            failing()
        assert caught.value.path == str(week.image(5))
        assert caught.value.hint


def test_a_later_point_that_is_out_of_reach_is_not_passed_over_in_silence(week):
    """Image 4 was lost: whoever wants the newest must not be given point 3 as if it were that."""
    week.image(4).unlink()
    chain = load_chain(week.folder, week.name)
    wanted = [chain.newest, lambda: chain.point_at(START + timedelta(hours=5))]
    for failing in wanted:
        with pytest.raises(MissingPointError, match=r"point [56], which is later, is out of reach") as caught:
            failing()
        assert "--point 3" in (caught.value.hint or "")
    assert chain.point_at(START + timedelta(hours=4, minutes=59)).number == 3
    week.states.pop(4)
    assert week.capture().header.end.number == 7
    assert load_chain(week.folder).newest().number == 7, "the line goes on without them"


def test_a_bad_image_that_may_be_the_one_at_a_time_is_named(week):
    week.image(5).write_bytes(b"")
    chain = load_chain(week.folder, week.name)
    for hours in (5, 5.5):
        with pytest.raises(FormatError) as caught:
            chain.point_at(START + timedelta(hours=hours))
        assert caught.value.path == str(week.image(5))
        assert "--point 4" in (caught.value.hint or "")
    assert chain.point_at(START + timedelta(hours=3)).number == 3, "point 4 was later already"


def test_points_that_were_rolled_up_are_no_loss(week):
    for number in (1, 2, 3):
        week.image(number).unlink()
    chain = load_chain(week.folder, week.name)
    assert chain.point_at(START + timedelta(hours=2)).number == 0
    assert chain.point_at(START + timedelta(hours=3)).number == 3


def test_a_bad_image_that_is_not_needed_is_no_reason(week):
    week.image(2).write_text("junk")
    chain = load_chain(week.folder, week.name)
    assert chain.newest().number == 6
    assert len(chain.path_to(chain.newest())) == 5
    assert chain.leads_to(chain.point(6))


def test_without_some_images(week):
    chain = load_chain(week.folder, week.name)
    assert not chain.without({"D_VOL-b001-i004.spi"}).leads_to(chain.newest())
    rest = chain.without({"D_VOL-b001-i003-cd.spi"})
    assert len(rest.path_to(rest.newest())) == 7
    with pytest.raises(ConfigurationError, match="nothing-like-it"):
        chain.without({"nothing-like-it"})


def test_what_is_merged_and_where_it_goes(week):
    chain = load_chain(week.folder, week.name)
    plan = chain.merge(chain.point(0), chain.point(6))
    assert [span.name for span in plan.sources] == [
        "D_VOL-b001-i003-cd.spi",
        "D_VOL-b001-i004.spi",
        "D_VOL-b001-i005.spi",
        "D_VOL-b001-i006.spi",
    ]
    assert chain.target(plan, Tier.WEEKLY) == week.image(6, "-cw")
    assert chain.target(plan, None).name == "D_VOL-b001-i006.spf"


def test_which_chain(week, quick_path):
    assert load_chain(week.folder).volume == week.name
    week.capture(new_base=True)
    assert load_chain(week.folder).base == 2
    assert load_chain(week.folder, base=1).newest().number == 6
    with pytest.raises(ConfigurationError, match="no chain b003"):
        load_chain(week.folder, base=3)
    capture(week.raw, week.folder, "E_VOL", now=START)
    with pytest.raises(ConfigurationError, match="D_VOL, E_VOL") as caught:
        load_chain(week.folder)
    assert "--volume" in (caught.value.hint or "")
    with pytest.raises(ConfigurationError, match="'F_VOL'") as caught:
        load_chain(week.folder, "F_VOL")
    assert "D_VOL" in (caught.value.hint or "")
    (quick_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match="holds no images"):
        load_chain(quick_path / "empty")


def test_a_fork_is_not_decided_for_anybody(week, quick_path):
    """A machine that was restored to point 4 went on from there, while its images had gone elsewhere."""
    elsewhere = quick_path / "elsewhere"
    elsewhere.mkdir()
    for number in (5, 6):
        shutil.move(week.image(number), elsewhere)
    week.raw.write_bytes(noise(3000, 50))
    second = capture(week.raw, week.folder, week.name, now=START + timedelta(hours=30))
    assert second.header.end.number == 5
    second.path.rename(week.folder / "D_VOL-b001-d001-i005.spi")
    shutil.move(elsewhere / "D_VOL-b001-i005.spi", week.folder)
    chain = load_chain(week.folder, week.name)
    with pytest.raises(ForkError, match="point 5 lies on 2 lines"):
        chain.point(5)
    assert chain.newest().time == START + timedelta(hours=30)
    assert chain.point(4).number == 4
