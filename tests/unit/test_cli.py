"""The commands: what they print, for people and for scripts, and how they end."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import time as clock
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ops.part_size import parse_part_size
from storage.capture import capture
from storage.publish import folder_lock
from tests.command import PROGRAM, Ran, in_own_process, in_this_process
from tests.unit.forge import sections, take_apart
from tests.unit.tiny import BLOCK, START, TinyVolume, names, noise

IMAGE_KEYS = [
    "path",
    "kind",
    "volume",
    "number",
    "point",
    "parent",
    "time",
    "volume_bytes",
    "stored_bytes",
    "changed_bytes",
    "status",
    "reason",
    "root",
    "parts",
    "encrypted",
]
CONTRACT = [key for key in IMAGE_KEYS if key not in ("time", "volume_bytes")]
"""Keys that every JSON line has."""

COMMANDS = ["capture", "verify", "chain", "consolidate", "restore", "up", "demo"]


def rollforward(*arguments: str | Path) -> Ran:
    done = in_this_process(*arguments)
    assert "Traceback" not in done.output + done.errors
    return done


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> TinyVolume:
    """A base and six incrementals."""
    tiny = TinyVolume(tmp_path_factory.mktemp("made"))
    tiny.capture_states([noise(3000 + 500 * number, number) for number in range(7)])
    return tiny


@pytest.fixture
def week(made: TinyVolume, quick_path: Path) -> TinyVolume:
    """A base and six incrementals, to do with as one likes."""
    return made.copy(quick_path / "tiny")


def damage(path: Path) -> None:
    image = path.read_bytes()
    at = sections(image)["frames"][7]
    path.write_bytes(image[:at] + bytes([image[at] ^ 1]) + image[at + 1 :])


# --- help


def test_help_names_every_command():
    for word in ("--help", "-h"):
        done = rollforward(word)
        assert done.code == 0
        assert "\\b" not in done.output
        for command in COMMANDS:
            assert re.search(rf"^  {command} ", done.output, re.MULTILINE), command
        assert max(map(len, done.output.splitlines())) <= 100


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(command):
    done = rollforward(command, "--help")
    assert "\\b" not in done.output
    assert done.code == 0
    assert f"rollforward {command}" in done.output
    assert "Usage:" in done.output
    if command != "demo":
        assert "Examples:" in done.output
    assert max(map(len, done.output.splitlines())) <= 100


def test_the_version():
    done = rollforward("--version")
    assert done.code == 0
    assert re.search(r"rollforward.*\d+\.\d+", done.output)


def test_help_needs_none_of_the_heavy_libraries():
    script = (
        "import sys; import ops.cli; print(sorted({'numba', 'numpy', 'rich', 'redis'} & set(sys.modules)))"
    )
    program = Path(PROGRAM).with_name("python")
    command = [str(program), "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=True)
    assert done.stdout.strip() == "[]"


USAGE = [
    [],
    ["nonsense"],
    ["capture"],
    ["capture", "gone.raw", "--into", ".", "--volume", "D"],
    ["capture", "{raw}", "--into", "{folder}"],
    ["capture", "{raw}", "--into", "gone", "--volume", "D"],
    ["capture", "{raw}", "--into", "{raw}", "--volume", "D"],
    ["capture", "{raw}", "--into", "{folder}", "--volume", "a/b"],
    ["capture", "{raw}", "--into", "{folder}", "--volume", ""],
    ["verify"],
    ["verify", "gone"],
    ["verify", "{folder}", "--nonsense"],
    ["chain"],
    ["chain", "gone"],
    ["consolidate", "{folder}"],
    ["consolidate", "{folder}", "--volume", "D_VOL", "--upto", "2"],
    ["consolidate", "{folder}", "--volume", "D_VOL", "--after", "0", "--upto", "2"],
    ["consolidate", "{folder}", "--volume", "D_VOL", "--after", "0", "--upto", "2", "--tier", "yearly"],
    ["consolidate", "{folder}", "--volume", "D_VOL", "--after", "-1", "--upto", "2", "--tier", "daily"],
    ["consolidate", "{folder}", "--volume", "D_VOL", "--after", "x", "--upto", "2", "--tier", "daily"],
    [
        "consolidate",
        "{folder}",
        "--volume",
        "D_VOL",
        "--after",
        "0",
        "--upto",
        "2",
        "--tier",
        "daily",
        "--full",
    ],
    ["consolidate", "{folder}", "--volume", "E_VOL", "--after", "0", "--upto", "2", "--tier", "daily"],
    ["restore", "{folder}", "--volume", "D_VOL"],
    ["restore", "{folder}", "--volume", "D_VOL", "--to", "{raw}"],
    ["restore", "{folder}", "--volume", "E_VOL", "--to", "x.raw"],
    ["restore", "{folder}", "--volume", "D_VOL", "--to", "x.raw", "--point", "1", "--at", "2026-01-01"],
    ["restore", "{folder}", "--volume", "D_VOL", "--to", "x.raw", "--at", "yesterday"],
    ["restore", "{folder}", "--volume", "D_VOL", "--to", "x.raw", "--point", "1.5"],
    ["restore", "{folder}", "--volume", "D_VOL", "--to", "x.raw", "--base", "9"],
    ["restore", "{folder}", "--volume", "D_VOL", "--to", "x.raw", "--without", "nothing"],
    ["restore", "{folder}", "--volume", "D_VOL", "--to", "gone/x.raw"],
]


@pytest.mark.parametrize("words", USAGE, ids=" ".join)
def test_wrong_usage_ends_with_2_and_says_why(week, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    before = names(week.folder)
    done = rollforward(*(word.format(raw=week.raw, folder=week.folder) for word in words))
    assert done.code == 2
    assert done.errors
    assert set(names(week.folder)) <= {*before, ".rollforward"}


# --- capture


def test_capture_in_json(tiny):
    tiny.put(0, noise(70_000))
    lines = []
    for _ in range(2):
        done = rollforward("capture", tiny.raw, "--into", tiny.folder, "--volume", "D_VOL", "--json")
        assert (done.code, done.errors) == (0, "")
        (line,) = done.objects
        assert list(line) == [*IMAGE_KEYS, "read", "notes"]
        assert (line["read"], line["notes"]) == ("whole", [])
        lines.append(line)
        tiny.put(100, b"changed")
    base, first = lines
    assert base["path"] == str(tiny.image())
    assert (base["kind"], base["number"], base["parent"], base["volume"]) == ("base", 0, None, "D_VOL")
    assert (first["kind"], first["number"], first["parent"]) == ("incremental", 1, base["point"])
    assert first["changed_bytes"] == 512
    assert first["volume_bytes"] == 70_000
    assert first["stored_bytes"] == tiny.image(1).stat().st_size
    assert (first["status"], first["reason"]) == ("written", None)
    assert first["root"] == tiny.image(1).read_bytes()[-32:].hex()
    assert len(first["point"]) == 32
    assert datetime.fromisoformat(first["time"]).tzinfo is not None
    assert abs(datetime.fromisoformat(first["time"]) - datetime.now(UTC)) < timedelta(minutes=5)


def test_capture_in_words(tiny):
    tiny.put(0, noise(70_000))
    done = rollforward("capture", tiny.raw, "--into", tiny.folder, "--volume", "D_VOL")
    assert done.code == 0
    assert "base, point 0" in done.output
    done = rollforward("capture", tiny.raw, "--into", tiny.folder, "--volume", "D_VOL")
    assert "incremental, point 1, 0 B changed" in done.output
    done = rollforward("capture", tiny.raw, "--into", tiny.folder, "--volume", "D_VOL", "--new-base")
    assert "D_VOL-b002.spf" in done.output


def test_capture_that_cannot(tiny):
    done = rollforward("capture", tiny.raw, "--into", tiny.folder, "--volume", "D_VOL")
    assert done.code == 5
    assert "error:" in done.errors
    assert "is empty" in done.errors
    tiny.put(0, b"x")
    with folder_lock(tiny.folder, "D_VOL.capture", "it"):
        done = rollforward("capture", tiny.raw, "--into", tiny.folder, "--volume", "D_VOL", "--json")
    assert done.code == 8
    (line,) = done.objects
    assert set(CONTRACT) <= set(line)
    assert (line["status"], line["error"]) == ("error", "BusyError")
    assert "already running" in line["reason"]
    assert done.errors == ""


# --- verify


def test_verify_a_good_folder(week):
    week.merge(0, 6, "-cd")
    done = rollforward("verify", week.folder, "--json")
    assert done.code == 0
    lines = done.objects
    assert [Path(line["path"]).name for line in lines] == sorted(
        path.name for path in week.folder.glob("*.sp?")
    ) or len(lines) == 8
    for line in lines:
        assert list(line) == [*IMAGE_KEYS, "foreign", "side_files", "note"]
        assert (line["status"], line["reason"], line["volume"]) == ("good", None, "D_VOL")
        assert line["root"] == Path(line["path"]).read_bytes()[-32:].hex()
    assert {line["kind"] for line in lines} == {"base", "incremental", "daily"}
    words = rollforward("verify", week.folder, "--deep")
    assert words.code == 0
    assert words.output.endswith("All 8 good.\n")
    one = rollforward("verify", week.image(3))
    assert one.output.endswith("Good.\n")


def test_verify_says_what_is_bad_and_why(week, quick_path):
    damage(week.image(2))
    week.image(3).write_bytes(b"")
    week.image(4).write_text("Dear diary, " * 100)
    shutil.copy(week.image(5), week.image(6))
    (week.folder / "no name.spi").write_text("junk")
    done = rollforward("verify", week.folder, "--json")
    assert done.code == 1
    reasons = {Path(line["path"]).name: line["reason"] for line in done.objects}
    assert reasons.pop("D_VOL-b001.spf") is None
    assert reasons.pop("D_VOL-b001-i001.spi") is None
    assert reasons.pop("D_VOL-b001-i005.spi") is None
    expected = {
        "D_VOL-b001-i002.spi": "stored data is damaged",
        "D_VOL-b001-i003.spi": "empty",
        "D_VOL-b001-i004.spi": "not a rollforward image",
        "D_VOL-b001-i006.spi": "leads to point 5, the name to 6",
        "no name.spi": "",
    }
    assert set(reasons) == set(expected)
    for name, words in expected.items():
        assert words in reasons[name]
    words = rollforward("verify", week.folder)
    assert words.code == 1
    assert words.output.endswith("5 of 8 images are bad.\n")
    assert re.search(r"^bad +.*i002\.spi: stored data is damaged", words.output, re.MULTILINE)
    assert rollforward("verify", week.image(2)).code == 1
    assert rollforward("verify", week.image(1), week.image(5)).code == 0
    assert rollforward("verify", week.image(1), week.image(2)).code == 1


def test_verify_an_image_of_another_chain(week, quick_path):
    other = TinyVolume(quick_path / "other")
    other.capture_states([noise(3000, seed) for seed in range(4)])
    shutil.copy(other.image(3), week.image(3))
    done = rollforward("verify", week.image(3), "--json")
    assert done.code == 1
    assert "another chain" in done.objects[0]["reason"]
    for command in ("consolidate", "restore"):
        rest = ["--after", "2", "--upto", "4", "--tier", "daily"]
        rest = rest if command == "consolidate" else ["--to", str(quick_path / "x.raw")]
        done = rollforward(command, week.folder, "--volume", "D_VOL", *rest)
        assert done.code in (3, 4)
        assert "D_VOL-b001-i003.spi" in done.errors


def test_verify_where_there_is_nothing(tmp_path):
    done = rollforward("verify", tmp_path)
    assert (done.code, done.output) == (0, "No images there.\n")
    assert rollforward("verify", tmp_path, "--json").output == ""


def test_verify_a_pipe_and_a_link(week):
    os.mkfifo(week.image(7))
    week.image(8).symlink_to(week.image(1))
    done = rollforward("verify", week.folder, "--json")
    assert done.code == 1
    assert sum(line["status"] == "bad" for line in done.objects) == 2


# --- chain


def test_chain_in_json(week):
    week.merge(0, 3, "-cd")
    week.image(5).unlink()
    damage(week.image(1))
    week.image(2).write_bytes(b"")
    done = rollforward("chain", week.folder, "--json")
    assert done.code == 0
    for line in done.objects:
        assert set(CONTRACT) <= set(line)
    by_name = {Path(line["path"]).name: line for line in done.objects}
    assert by_name["D_VOL-b001-i002.spi"]["status"] == "bad"
    assert by_name["D_VOL-b001-i002.spi"]["number"] == 2
    assert by_name["D_VOL-b001-i001.spi"]["status"] == "good", "a chain looks at headers only"
    (gap,) = (line for line in done.objects if line["kind"] == "gap" and line["number"] == 5)
    assert (gap["number"], gap["volume"], gap["path"]) == (5, "D_VOL", str(week.folder))
    assert gap["waiting"] == ["D_VOL-b001-i006.spi"]
    assert rollforward("chain", week.folder, "--volume", "E_VOL", "--json").output == ""


def test_chain_in_words(week):
    week.merge(0, 3, "-cd")
    week.image(5).unlink()
    week.image(2).write_bytes(b"")
    done = rollforward("chain", week.folder)
    assert done.code == 0
    assert "chain b001: 7 points in time" in done.output
    assert "gap:" in done.output
    assert "bad:" in done.output
    assert "D_VOL-b001-i003-cd.spi" in done.output
    assert rollforward("chain", week.folder, "--volume", "E_VOL").output == "No images there.\n"


def test_chain_of_more_points_than_a_screen(tiny):
    tiny.capture_states([noise(600, seed) for seed in range(64)])
    assert "4 earlier points" in rollforward("chain", tiny.folder).output
    assert "earlier points" not in rollforward("chain", tiny.folder, "--all").output


# --- consolidate


def test_consolidate_in_json(week):
    done = rollforward(
        "consolidate",
        week.folder,
        "--volume",
        "D_VOL",
        "--after",
        "0",
        "--upto",
        "4",
        "--tier",
        "daily",
        "--json",
    )
    assert (done.code, done.errors) == (0, "")
    (line,) = done.objects
    assert list(line) == [*IMAGE_KEYS, "sources"]
    assert line["path"] == str(week.image(4, "-cd"))
    assert (line["kind"], line["number"], line["status"]) == ("daily", 4, "written")
    assert line["sources"] == [week.image(number).name for number in range(1, 5)]
    with_base = take_apart(week.image().read_bytes())
    assert line["parent"] == with_base.points[1]["id"].hex()


@pytest.mark.parametrize(("tier", "ending"), [("daily", "-cd"), ("weekly", "-cw"), ("monthly", "-cm")])
def test_tiers_and_names(week, tier, ending):
    done = rollforward(
        "consolidate", week.folder, "--volume", "D_VOL", "--after", "2", "--upto", "5", "--tier", tier
    )
    assert done.code == 0
    assert "3 images" in done.output
    assert "covers 3 points" in done.output
    assert week.image(5, ending).exists()
    again = rollforward(
        "consolidate", week.folder, "--volume", "D_VOL", "--after", "2", "--upto", "5", "--tier", tier
    )
    assert again.code == 8
    assert "exists already" in again.errors


def test_consolidate_a_synthetic_full(week):
    done = rollforward("consolidate", week.folder, "--volume", "D_VOL", "--upto", "6", "--full", "--json")
    assert done.code == 0
    assert (done.objects[0]["kind"], done.objects[0]["parent"]) == ("full", None)
    for number in range(6):
        week.image(number).unlink()
    assert (week.folder / "D_VOL-b001-i006.spf").exists()
    assert rollforward("verify", week.folder).code == 0
    week.check(6)


CANNOT_MERGE = [
    (["--after", "4", "--upto", "4"], 4, "does not come before"),
    (["--after", "5", "--upto", "4"], 4, "does not come before"),
    (["--after", "0", "--upto", "9"], 4, "names point 9"),
    (["--after", "8", "--upto", "9"], 4, "names point 8"),
]


@pytest.mark.parametrize(("points", "code", "words"), CANNOT_MERGE)
def test_consolidate_that_cannot(week, points, code, words):
    before = names(week.folder)
    done = rollforward("consolidate", week.folder, "--volume", "D_VOL", *points, "--tier", "daily")
    assert done.code == code
    assert words in done.errors
    assert names(week.folder) == before


def test_consolidate_over_a_gap_or_damage(week):
    damage(week.image(2))
    before = names(week.folder)
    merge = [
        "consolidate",
        week.folder,
        "--volume",
        "D_VOL",
        "--after",
        "0",
        "--upto",
        "4",
        "--tier",
        "daily",
    ]
    done = rollforward(*merge)
    assert done.code == 3
    assert "D_VOL-b001-i002.spi" in done.errors
    assert names(week.folder) == before
    week.image(2).unlink()
    done = rollforward(*merge)
    assert done.code == 4
    assert "point 2" in done.errors


# --- restore


def test_restore_in_json(week, tmp_path):
    target = tmp_path / "x.raw"
    done = rollforward("restore", week.folder, "--volume", "D_VOL", "--point", "3", "--to", target, "--json")
    assert (done.code, done.errors) == (0, "")
    (line,) = done.objects
    assert set(CONTRACT) <= set(line)
    assert (line["path"], line["kind"], line["volume"]) == (str(target), "restore", "D_VOL")
    assert (line["number"], line["status"], line["reason"]) == (3, "restored", None)
    assert line["volume_bytes"] == 4500
    assert line["images"] == [week.image(number).name for number in range(4)]
    assert line["point"] == take_apart(week.image(3).read_bytes()).points[1]["id"].hex()
    assert target.read_bytes() == week.states[3]


TIMES = [
    (START + timedelta(hours=2), 2),
    (START + timedelta(hours=2, minutes=30), 2),
    (START + timedelta(days=30), 6),
    (START, 0),
]


@pytest.fixture(params=["UTC", "America/New_York", "Asia/Tokyo"])
def zone(request, monkeypatch) -> Iterator[str]:
    """A local time zone."""
    monkeypatch.setenv("TZ", request.param)
    clock.tzset()
    yield request.param
    monkeypatch.undo()
    clock.tzset()


@pytest.mark.usefixtures("zone")
@pytest.mark.parametrize("word", ["0001-01-01", "9999-12-31T23:59:59.999999", "0001-01-01T00:00+14:00"])
def test_restore_at_the_ends_of_the_calendar(week, tmp_path, word):
    done = rollforward("restore", week.folder, "--volume", "D_VOL", "--at", word, "--to", tmp_path / "x.raw")
    assert done.code in (0, 2, 4)
    assert done.code != 0 or word.startswith("9999")


@pytest.mark.usefixtures("zone")
@pytest.mark.parametrize(("time", "number"), TIMES)
def test_restore_at_a_time(week, tmp_path, time, number):
    target = tmp_path / "x.raw"
    words = [time.isoformat(), time.astimezone().replace(tzinfo=None).isoformat(sep=" ")]
    for word in words:
        done = rollforward(
            "restore", week.folder, "--volume", "D_VOL", "--at", word, "--to", target, "--overwrite"
        )
        assert done.code == 0
        assert f"point {number} of D_VOL" in done.output
        assert target.read_bytes() == week.states[number]


def test_restore_that_cannot(week, tmp_path):
    target = tmp_path / "x.raw"
    restore = ["restore", week.folder, "--volume", "D_VOL", "--to", target]
    assert rollforward(*restore, "--point", "9").code == 4
    assert rollforward(*restore, "--at", "2020-01-01").code == 4
    damage(week.image(2))
    done = rollforward(*restore)
    assert done.code == 3
    assert "D_VOL-b001-i002.spi" in done.errors
    done = rollforward(*restore, "--json")
    (line,) = done.objects
    assert set(CONTRACT) <= set(line)
    assert (line["status"], line["path"]) == ("error", str(week.image(2)))
    assert names(tmp_path) == []
    assert rollforward(*restore, "--point", "1").code == 0
    done = rollforward(*restore, "--point", "1")
    assert done.code == 2
    assert "--overwrite" in done.errors
    week.image().write_bytes(b"")
    done = rollforward(*restore, "--overwrite")
    assert done.code == 3
    assert "D_VOL-b001.spf" in done.errors


def test_the_newest_point_is_not_passed_over_in_silence(week, tmp_path):
    week.image(6).write_bytes(b"")
    done = rollforward("restore", week.folder, "--volume", "D_VOL", "--to", tmp_path / "x.raw")
    assert done.code == 3
    assert "D_VOL-b001-i006.spi" in done.errors
    assert "--point 5" in done.errors


# --- names that bite


BITING = [
    "Büro C",
    "it's",
    "[red]D[",
    "D[bold]",
    ":smile:",
    "100%",
    "{x}",
    "a\u202eb",
    "--volume",
    "語" * 60,
    "D\x9b31m"[:1] + "b",
]


@pytest.mark.parametrize("name", BITING)
def test_volumes_of_any_name_go_through_every_command(quick_path, name):
    tiny = TinyVolume(quick_path / "tiny", name)
    tiny.put(0, noise(3000))
    volume = f"--volume={name}"
    for number in range(3):
        tiny.put(number * 700, b"x")
        done = rollforward("capture", tiny.raw, "--into", tiny.folder, volume)
        assert done.code == 0, done
    assert rollforward("verify", tiny.folder).code == 0
    (tiny.folder / f"{name}-b001-i009.spi").write_bytes(b"")
    done = rollforward("chain", tiny.folder)
    assert done.code == 0, done
    if name.isprintable():
        assert f"{name}-b001-i001.spi" in done.output.replace("\n", "")
        assert done.output.startswith(name)
    (tiny.folder / f"{name}-b001-i009.spi").unlink()
    merge = ["--after", "0", "--upto", "2", "--tier", "daily"]
    assert rollforward("consolidate", tiny.folder, volume, *merge).code == 0
    target = quick_path / "x.raw"
    done = rollforward("restore", tiny.folder, volume, "--to", target)
    assert done.code == 0, done
    assert target.read_bytes() == tiny.raw.read_bytes()
    for line in rollforward("chain", tiny.folder, "--json").objects:
        assert line["volume"] == name


ESCAPES = ["\x1b]0;owned\x07", "\x1b[2J", "\x9b2J", "\r", "\u202e", "\n", "\x7f"]


@pytest.mark.parametrize("escape", ESCAPES, ids=repr)
def test_nothing_in_a_name_reaches_the_terminal_as_a_command(week, tmp_path, escape):
    (week.folder / f"stray{escape}.spi").write_text("junk")
    forged = take_apart(week.image(6).read_bytes())
    metadata = json.loads(forged.metadata) | {"volume": f"D{escape}", "source": escape}
    forged.put_metadata(json.dumps(metadata, ensure_ascii=False).encode())
    week.image(6).write_bytes(forged.seal())
    metadata["volume"] = f"[/red]{escape}"
    forged.put_metadata(json.dumps(metadata, ensure_ascii=False).encode())
    week.image(5).write_bytes(forged.seal())
    (week.folder / f"sub{escape}").mkdir()
    shutil.copy(week.image(1), week.folder / f"sub{escape}")
    commands = [
        ["verify", week.folder],
        ["verify", week.folder / f"sub{escape}"],
        ["chain", week.folder],
        ["chain", week.folder / f"sub{escape}"],
        ["restore", week.folder, "--volume", "D_VOL", "--to", tmp_path / f"x{escape}", "--point", "1"],
        ["restore", week.folder, "--volume", "D_VOL", "--to", tmp_path / f"x{escape}", "--point", "1"],
        ["restore", week.folder, "--volume", "D_VOL", "--to", tmp_path / f"no{escape}" / "x", "--point", "1"],
        ["restore", week.folder, "--volume", f"D{escape}", "--to", tmp_path / "y"],
        ["capture", week.raw, "--into", week.folder, "--volume", f"D{escape}/"],
        ["capture", week.raw, "--into", week.folder / f"sub{escape}", "--volume", "E"],
    ]
    for command in commands:
        done = rollforward(*command)
        shown = done.output + done.errors
        lines = [line for line in shown.splitlines() if "stray" in line]
        if escape != "\n":
            assert escape not in shown, done
        else:
            assert not any(line.endswith("stray") for line in lines), done
        with_json = rollforward(*command, "--json")
        if escape != "\n":
            assert escape not in with_json.output
        assert len(with_json.output.splitlines()) == len(with_json.objects)


def on_a_terminal(*arguments: str | Path) -> tuple[int, str]:
    """Run the command as a person does: with colours and progress."""
    leader, follower = pty.openpty()
    words = [PROGRAM, *map(str, arguments)]
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    with subprocess.Popen(words, stdin=follower, stdout=follower, stderr=follower, env=env) as started:
        os.close(follower)
        shown = b""
        while True:
            try:
                piece = os.read(leader, 65_536)
            except OSError:  # the other end is closed: so Linux says it
                break
            if not piece:
                break
            shown += piece
        code = started.wait()
    os.close(leader)
    return code, shown.decode(errors="replace")


def test_on_a_terminal_with_a_name_that_looks_like_markup(quick_path):
    tiny = TinyVolume(quick_path / "tiny", "[bold]D[")
    tiny.put(0, noise(3 * BLOCK))
    for command in (
        ["capture", tiny.raw, "--into", tiny.folder, "--volume=[bold]D["],
        ["verify", tiny.folder],
        ["chain", tiny.folder],
        ["restore", tiny.folder, "--volume=[bold]D[", "--to", quick_path / "[x]"],
    ):
        code, shown = on_a_terminal(*command)
        assert code == 0, shown
        assert "Traceback" not in shown
        assert "[bold]D[" in shown


@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii:strict"])
def test_output_that_the_stream_cannot_encode(week, monkeypatch, encoding):
    """With the real output streams, which refuse what they cannot say."""
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    shutil.copy(week.image(), os.fsencode(week.folder) + b"/D\xff-b001.spf")
    done = in_own_process("verify", week.folder, "--json")
    assert (done.code, done.errors, len(done.objects)) == (0, "", 8)
    assert in_own_process("chain", week.folder).code == 0


def test_a_target_whose_name_is_not_unicode(week, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8:strict")
    target = os.fsdecode(os.fsencode(tmp_path) + b"/x\xff.raw")
    done = in_own_process("restore", week.folder, "--volume", "D_VOL", "--to", target)
    assert (done.code, done.errors) == (0, "")
    assert "udcff" in done.output
    done = in_own_process("restore", week.folder, "--volume", "D_VOL", "--to", target)
    assert done.code == 2
    assert "udcff" in done.errors
    assert "Traceback" not in done.errors


def test_output_that_nobody_reads(week):
    with subprocess.Popen(
        [PROGRAM, "chain", str(week.folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as started:
        assert started.stdout is not None
        assert started.stderr is not None
        started.stdout.close()
        errors = started.stderr.read()
        started.wait()
    assert b"Traceback" not in errors


def test_a_chain_of_more_images_than_a_process_may_open_at_first(tiny):
    """Hourly captures for six weeks are a thousand; many systems allow 1,024 open files, and more when asked."""
    tiny.capture_states([bytes([number]) * 600 for number in range(70)])
    target = tiny.folder.parent / "x.raw"
    command = f"ulimit -Sn 64; exec {PROGRAM} restore {tiny.folder} --volume D_VOL --to {target}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert target.read_bytes() == tiny.states[69]


def test_a_time_far_away_is_shown(week):
    forged = take_apart(week.image(6).read_bytes())
    forged.points[1]["time_us"] = 221_845_392_000_000_000 - 1
    week.image(6).write_bytes(forged.seal())
    assert rollforward("chain", week.folder).code == 0
    assert rollforward("verify", week.folder).code == 0
    capture(week.raw, week.folder, "D_VOL", now=START)
    assert rollforward("chain", week.folder).code == 0


# --- images in several files


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("4G", 4 << 30),
        ("4GiB", 4 << 30),
        ("650M", 650 << 20),
        ("700MB", 700_000_000),
        ("1.5t", 3 << 39),
        ("64k", 65_536),
        ("65536", 65_536),
        (" 100 K ", 102_400),
        ("65535", None),
        ("0", None),
        ("-4G", None),
        ("4 apples", None),
        ("4E", None),
        ("iB", None),
        ("", None),
        ("nan", None),
        ("1e9", None),
    ],
)
def test_part_sizes(text, size_bytes):
    assert parse_part_size(text) == size_bytes


def test_images_in_several_files_from_capture_to_restore(quick_path):
    raw, folder = quick_path / "volume.raw", quick_path / "images"
    folder.mkdir()
    capture = ("capture", raw, "--into", folder, "--volume", "D", "--part-size", "64K")
    for number in range(3):
        raw.write_bytes(noise(200_000, number))
        made = rollforward(*capture, "--json").objects[0]
        assert made["parts"] == 4
    assert made["stored_bytes"] == sum(path.stat().st_size for path in folder.glob("D-b001-i002.sp*"))
    told = rollforward("consolidate", folder, "--volume", "D", "--upto", "2", "--full", "--part-size", "64K")
    assert "in 4 parts that covers 3 points" in told.output
    assert (folder / "D-b001-i002.spf.sp3").exists()
    verified = rollforward("verify", folder)
    assert (verified.code, verified.output.count("in 4 parts")) == (0, 4)
    assert {line["parts"] for line in rollforward("chain", folder, "--json").objects} == {4}
    assert rollforward("chain", folder).output.count("in 4 parts") == 4
    done = rollforward("restore", folder, "--volume", "D", "--to", quick_path / "out.raw", "--json").objects[
        0
    ]
    assert done["stored_bytes"] == sum(path.stat().st_size for path in folder.glob("D-b001-i002.spf*"))
    assert (quick_path / "out.raw").read_bytes() == raw.read_bytes()

    of_part = rollforward("verify", folder / "D-b001-i001.sp2", "--json")
    assert (of_part.code, of_part.objects[0]["path"]) == (0, str(folder / "D-b001-i001.spi"))
    (folder / "D-b001-i001.sp2").unlink()
    missing = rollforward("verify", folder / "D-b001-i001.spi")
    assert missing.code == 1
    assert "D-b001-i001.sp2: this part of the set D-b001-i001.spi is missing" in missing.output
    refused = rollforward(
        "consolidate", folder, "--volume", "D", "--after", "0", "--upto", "2", "--tier", "daily"
    )
    assert refused.code == 3
    assert "D-b001-i001.sp2" in refused.errors
    wrong = rollforward(*capture[:-1], "1K")
    assert wrong.code == 2
    assert "write one like 650M or 4G" in wrong.errors


def test_an_image_does_not_adopt_the_parts_of_another(tiny):
    tiny.capture_states([noise(3000, number) for number in range(3)])
    (tiny.folder / "D_VOL-b001-i002-cd.sp1").write_bytes(b"somebody's")
    before = names(tiny.folder)
    ran = rollforward(
        "consolidate", tiny.folder, "--volume", "D_VOL", "--after", "0", "--upto", "2", "--tier", "daily"
    )
    assert ran.code == 8
    assert "there is .sp1 of a set whose first part is missing" in ran.errors
    assert "move those files away" in ran.errors
    assert names(tiny.folder) == before
