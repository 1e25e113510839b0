"""The file of settings: what is written is read back, whatever it holds; what is wrong is named with its line."""

from __future__ import annotations

import tomllib

from hypothesis import assume, given
from hypothesis import strategies as st

from ops.config_document import ConfigDocument, FolderEntry, LocationEntry, Login, parse_config
from ops.config_text import config_text
from ops.toml_text import line_of, toml_value
from policies.calendar import Weekday
from policies.folder_policy import AGENT_FIELDS, FOLDER_FIELDS
from policies.setting_field import OFF, SettingField, SettingKind

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
PATHS = st.lists(
    TEXTS.filter(lambda part: part not in ("", ".", "..") and "/" not in part), min_size=1, max_size=4
)
LOGINS = st.none() | st.builds(Login, TEXTS.filter(bool))


def values(field: SettingField) -> st.SearchStrategy[bool | int | str]:
    found: st.SearchStrategy[bool | int | str] = {
        SettingKind.SWITCH: st.booleans(),
        SettingKind.NUMBER: st.integers(field.lowest, field.highest),
        SettingKind.WEEKDAY: st.sampled_from([day.name.lower() for day in Weekday]),
        SettingKind.MONTH_END: st.integers(1, 31) | st.sampled_from(["last friday", "fourth monday"]),
        SettingKind.TIME: st.times().map(lambda time: time.strftime("%H:%M")),
    }[field.kind]
    return found | st.just(OFF) if field.can_be_off else found


@st.composite
def layers(draw: st.DrawFn, fields: tuple[SettingField, ...]) -> dict[str, dict[str, bool | int | str]]:
    layer: dict[str, dict[str, bool | int | str]] = {}
    for field in draw(st.lists(st.sampled_from(fields), unique=True, max_size=6)):
        layer.setdefault(field.section, {})[field.name] = draw(values(field))
    return layer


@st.composite
def entries(draw: st.DrawFn) -> FolderEntry:
    return FolderEntry(
        path="/" + "/".join(draw(PATHS)),
        description=draw(TEXTS),
        time_zone=draw(st.sampled_from([None, "Europe/Berlin", "UTC"])),
        sort_priority=draw(st.none() | st.integers(0, 255)),
        login=draw(LOGINS),
        settings=draw(layers(FOLDER_FIELDS)),
    )


@st.composite
def locations(draw: st.DrawFn) -> LocationEntry:
    name = draw(st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=20))
    address = draw(st.sampled_from(["", "//nas/disks", "//nas/disks/of mine"]))
    return LocationEntry(name, "/" + "/".join(draw(PATHS)), address, draw(LOGINS))


@st.composite
def documents(draw: st.DrawFn) -> ConfigDocument:
    folders = {entry.path: entry for entry in draw(st.lists(entries(), max_size=3))}
    places = {entry.name: entry for entry in draw(st.lists(locations(), max_size=2))}
    layer = draw(layers(AGENT_FIELDS + FOLDER_FIELDS))
    return ConfigDocument(layer, draw(LOGINS), folders, locations=places)


@given(documents())
def test_what_is_written_is_read_back(document):
    assert parse_config(config_text(document), "a file") == document


@given(TEXTS)
def test_text_survives(text):
    assert tomllib.loads(f"x = {toml_value(text)}")["x"] == text


@given(documents(), st.data())
def test_the_line_of_a_field_is_the_one_that_it_is_written_on(document, data):
    text = config_text(document)
    settings = [(section, name) for section, held in document.settings.items() for name in held]
    assume(settings or document.folders)
    if settings:
        section, name = data.draw(st.sampled_from(settings))
        line = text.split("\n")[(line_of(text, (section, name)) or 0) - 1]
        assert line.startswith(f"{name} = ")
    for index, entry in enumerate(document.folders.values()):
        line = text.split("\n")[(line_of(text, ("folder", index, "path")) or 0) - 1]
        assert line == f"path = {toml_value(entry.path)}"
