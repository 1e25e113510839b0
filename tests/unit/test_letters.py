"""What letters say, as text, as HTML and as JSON."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest

from ops.notify.letter import LetterKind, letter_from_json
from ops.notify.letter_html import letter_html
from ops.notify.letter_text import ENTRIES_MAX, letter_text
from policies.notices import Topic
from tests.letters import DAMAGED, EVIL, FULL, ZONE, letters

LETTERS = letters()
VOID = {"meta", "br", "img"}


class Reader(HTMLParser):
    """Reads a page, checks that its elements are closed in order, and gathers what a person sees."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.words: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "title"):
            self.words.append(data)


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader


@pytest.mark.parametrize("name", LETTERS)
def test_both_forms_say_the_same(name: str):
    letter = LETTERS[name]
    text, seen = letter_text(letter, ZONE), " ".join(read(letter_html(letter, ZONE)).words)
    squeezed = " ".join(text.split())
    for entry in (*letter.opened, *letter.cleared):
        for words in (entry.subject, entry.reason):
            if words and "\x1b" not in words:
                assert words in squeezed
                assert words in seen
    for folder in letter.folders:
        assert folder.path in text
        assert folder.path in seen
    assert "rollforward on" in text
    assert "rollforward on" in seen


@pytest.mark.parametrize("name", LETTERS)
def test_html_needs_nothing_from_elsewhere_and_is_fit_for_phones_and_the_dark(name: str):
    html = letter_html(LETTERS[name], ZONE)
    page = read(html)
    assert page.tags <= {"html", "head", "meta", "title", "style", "body", "div", "h1", "h2"}
    assert {name for name, _ in page.attributes}.isdisjoint(
        {"src", "href", "onload", "onclick", "background"}
    )
    assert 'name="viewport"' in html
    assert 'name="color-scheme" content="light dark"' in html
    assert "prefers-color-scheme: dark" in html
    assert "width:6" not in html.replace("max-width:640px", "").replace("width:6%", "")


def test_names_are_shown_and_never_obeyed():
    letter = LETTERS["evil"]
    html, text = letter_html(letter, ZONE), letter_text(letter, ZONE)
    assert "<script" not in html
    for form in (html, text):
        assert "\x1b" not in form
        assert "\u202e" not in form
    assert "&lt;script&gt;" in html
    assert "<script>" in text


def test_a_storm_makes_a_letter_that_can_be_read():
    text, html = letter_text(LETTERS["storm"], ZONE), letter_html(LETTERS["storm"], ZONE)
    assert text.count("* damaged image:") == ENTRIES_MAX
    assert f"and {400 - ENTRIES_MAX} more" in text
    assert f"and {400 - ENTRIES_MAX} more" in html
    assert len(html) < 100_000


def test_subjects_say_what_it_is_about():
    assert {name: letter.subject for name, letter in LETTERS.items() if name != "evil"} == {
        "failure": "damaged image: FILES-b001-i031.spi, and 2 more",
        "inactivity": "no new image: MAIL",
        "space": "space runs low: /srv/images",
        "cleared": "over: damaged image: FILES-b001-i031.spi, and 1 more",
        "summary": "2026-03-02: 2 troubles on backup1",
        "quiet": "2026-03-02: all is well on backup1",
        "test": "test from backup1",
        "storm": "damaged image: FILES-b001-i031.spi, and 399 more",
    }


@pytest.mark.parametrize("name", LETTERS)
def test_json_gives_the_letter_back(name: str):
    letter = LETTERS[name]
    assert letter_from_json(json.loads(json.dumps(letter.to_json()))) == letter


@pytest.mark.parametrize("spoilt", [{"form": "other"}, {"folders_in_all": "many"}, {"kind": "gossip"}])
def test_what_is_no_letter_is_told(spoilt: dict[str, object]):
    with pytest.raises(ValueError):
        letter_from_json(LETTERS["summary"].to_json() | spoilt)


def test_each_is_told_what_was_asked_for():
    both = LETTERS["cleared"]
    assert [one.reason for one in both.cleared] == [DAMAGED.reason, FULL.reason]
    space = both.about([Topic.SPACE])
    assert space is not None
    assert [one.reason for one in space.cleared] == [FULL.reason]
    assert both.about([Topic.INACTIVITY, Topic.SUMMARY]) is None
    assert LETTERS["summary"].about([Topic.FAILURE]) is None
    assert LETTERS["summary"].about([Topic.SUMMARY]) == LETTERS["summary"]
    test = LETTERS["test"].about([])
    assert test is not None
    assert test.kind is LetterKind.TEST


def test_evil_is_evil():
    assert "<" in EVIL
    assert "\x1b" in EVIL
