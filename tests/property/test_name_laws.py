"""Names: whatever is spelled is read back, and whatever is read is spelled alike."""

from __future__ import annotations

from hypothesis import assume, example, given
from hypothesis import strategies as st

from policies.errors import ConfigurationError
from policies.names import (
    NUMBER_MAX,
    ImageName,
    Tier,
    check_volume_name,
    image_name,
    parse_image_name,
    side_file_kind,
)

ROLLED_UP = [Tier.DAILY, Tier.WEEKLY, Tier.MONTHLY, Tier.ROLLING]
NUMBERS = st.integers(0, 1200) | st.integers(0, NUMBER_MAX)
PIECES = st.sampled_from(
    [
        "-b001",
        "-b",
        "001",
        "1",
        "0",
        "-i005",
        "-d002",
        "-cd",
        "-cw",
        "-cm",
        "-cr",
        ".spf",
        ".spi",
        ".sp1",
        ".sp0",
    ]
)


@st.composite
def volume_names(draw: st.DrawFn) -> str:
    volume = draw(st.text(max_size=40) | st.lists(PIECES, max_size=4).map("".join))
    try:
        check_volume_name(volume)
    except ConfigurationError:
        assume(False)
    return volume


@st.composite
def image_names(draw: st.DrawFn) -> ImageName:
    number = draw(st.none() | NUMBERS)
    differential = draw(st.none() | NUMBERS)
    is_bare = number is None and differential is None
    is_full = is_bare or (number is not None and draw(st.booleans()))
    may_roll_up = number is not None and not is_full
    tiers = draw(st.frozensets(st.sampled_from(ROLLED_UP))) if may_roll_up else frozenset()
    return ImageName(
        volume=draw(volume_names()),
        base=draw(NUMBERS),
        differential=differential,
        number=number,
        tiers=tuple(tier for tier in ROLLED_UP if tier in tiers),
        extension="spf" if is_full else "spi",
        part=draw(NUMBERS),
    )


@given(image_names())
def test_what_is_spelled_is_read_back(name):
    assert parse_image_name(name.filename()) == name


@given(st.text() | st.lists(PIECES | st.text(max_size=2), max_size=8).map("".join))
@example("\ud800-b001.spf")
@example("-b001" * 1000 + ".spf")
def test_any_text_is_read_without_fail_and_has_one_spelling(text):
    name = parse_image_name(text)
    assert name is None or name.filename() == text
    side_file_kind(text)


@given(st.text())
def test_a_volume_name_that_passes_makes_a_name_that_is_read_back(volume):
    try:
        check_volume_name(volume)
    except ConfigurationError:
        return
    name = image_name(volume, 1, 5, [Tier.DAILY])
    assert parse_image_name(name.filename()) == name
    assert len(name.filename().encode()) < 256
