"""Where files lead of which only names are known."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from policies.assuming import NamedFile, assume_spans, assumed_chain_id, assumed_gaps

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def files(*endings: str) -> list[NamedFile]:
    return [
        NamedFile(f"D_VOL-b001{ending}", NOON + timedelta(hours=number))
        for number, ending in enumerate(endings)
    ]


def ways(*endings: str) -> list[tuple[int | None, int]]:
    spans = assume_spans(files(*endings))
    assert all(span.assumed and span.ascends for span in spans)
    return [(span.start.number if span.start else None, span.end.number) for span in spans]


def test_incrementals_lead_from_the_number_before():
    assert ways(".spf", "-i001.spi", "-i002.spi", "-i007.spi") == [(None, 0), (0, 1), (1, 2), (6, 7)]


def test_consolidations_lead_from_the_last_one_of_their_tier_or_a_higher_one():
    assert ways(".spf", "-i097-cm.spi", "-i110-cw.spi", "-i120-cw.spi", "-i125-cd.spi", "-i126.spi") == [
        (None, 0),
        (0, 97),
        (97, 110),
        (110, 120),
        (120, 125),
        (125, 126),
    ]
    assert ways("-i005-cd.spi", "-i009-cd-cw.spi") == [(0, 5), (0, 9)]


def test_numbers_on_a_differential_may_begin_anew_or_go_on():
    assert ways(".spf", "-d001.spi", "-d001-i001.spi", "-d001-i002.spi")[1:] == [(0, 1), (1, 2), (2, 3)]
    assert ways(".spf", "-d002.spi", "-d002-i003.spi", "-d002-i004.spi")[1:] == [(0, 2), (2, 5), (5, 6)]
    assert ways(".spf", "-d000-i001.spi", "-d001-i000.spi") == [(None, 0), (0, 1), (0, 1)]


def test_a_synthetic_full_leads_from_nothing():
    assert ways("-i005.spf", "-i006.spi") == [(None, 5), (5, 6)]


def test_gaps_are_where_nothing_leads():
    spans = assume_spans(files(".spf", "-i001.spi", "-i003.spi", "-i004.spi", "-i009.spi"))
    assert [(gap.missing.number, gap.waiting) for gap in assumed_gaps(spans)] == [
        (2, ("D_VOL-b001-i003.spi",)),
        (8, ("D_VOL-b001-i009.spi",)),
    ]
    assert assumed_gaps(assume_spans(files(".spf", "-i001.spi"))) == ()


def test_other_files_and_other_chains_are_kept_apart():
    named = [*files(".spf"), NamedFile("notes.txt", NOON), NamedFile("E_VOL-b001-i001.spi", NOON)]
    spans = assume_spans(named)
    assert [span.name for span in spans] == ["D_VOL-b001.spf", "E_VOL-b001-i001.spi"]
    assert spans[1].start is not None
    assert spans[1].start.id != spans[0].end.id
    assert assumed_chain_id("D_VOL", 1) != assumed_chain_id("D_VOL", 2)
    assert len(assumed_chain_id("D_VOL", 1)) == 16


def test_a_point_is_as_old_as_the_first_file_that_leads_there():
    spans = assume_spans(files("-i005-cd.spi", "-i005.spi", "-i006.spi"))
    assert [span.end.time for span in spans] == [NOON, NOON, NOON + timedelta(hours=2)]
    assert spans[2].start == spans[0].end
