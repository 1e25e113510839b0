"""NBD exports as sources: read whole and exactly; whatever a server does, nothing half is published."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from policies.errors import ConfigurationError, SourceError
from storage import nbd_stream
from storage.capture import capture
from storage.nbd_uri import NbdUri, is_nbd_uri, parse_nbd_uri
from storage.source_nbd import NbdAccess, NbdSource
from tests.nbd_server import GO, READ, SET_CONTEXT, STATUS, STRUCTURED, Lies, chunk, plain_nbd_server
from tests.unit.tiny import BLOCK, START, TinyVolume, names, noise

MIB = 1 << 20
CONTENT = noise(3 * MIB + 512) + bytes(5 * MIB) + noise(BLOCK, 2) + bytes(700) + noise(4000, 3)


def captured(tiny: TinyVolume, path: Path, lies: Lies, content: bytes = CONTENT) -> None:
    uri = NbdUri(path, "disk")
    with plain_nbd_server(path, content, lies):
        made = capture(NbdAccess(uri), tiny.folder, tiny.name, now=START)
    tiny.states[made.header.end.number] = content


# --- names


@pytest.mark.parametrize(
    ("text", "address", "export"),
    [
        ("nbd://server", ("server", 10809), ""),
        ("nbd://server:99/a%20disk", ("server", 99), "a disk"),
        ("nbd://[::1]:10/x/y", ("::1", 10), "x/y"),
        ("nbd+unix:///?socket=/run/a%2Bb", Path("/run/a+b"), ""),
        ("nbd+unix:///d%C3%BC?socket=/s", Path("/s"), "dü"),
    ],
)
def test_names_of_exports(text, address, export):
    uri = parse_nbd_uri(text)
    assert is_nbd_uri(text)
    assert uri == NbdUri(address, export)
    assert parse_nbd_uri(str(uri)) == uri


@pytest.mark.parametrize(
    "text",
    ["nbd:///x", "nbd://h:x/", "nbd://h:99999", "nbd://u@h/", "nbds://h/", "nbd+unix:///x", "nbd+unix://h/?socket=s",
     "nbd+unix:///?socket=a&socket=b", "nbd+unix:///?socket=", "nbd://h/?socket=s", "nbd://h/" + "x" * 4097, "nbd://[h"],
)  # fmt: skip
def test_names_that_are_none(text):
    with pytest.raises(ConfigurationError) as caught:
        parse_nbd_uri(text)
    assert caught.value.hint


def test_exports_over_tls_are_refused_with_a_way_out():
    with pytest.raises(ConfigurationError, match="not read over TLS") as caught:
        parse_nbd_uri("nbds://server/disk")
    assert all(word in (caught.value.hint or "") for word in ("tunnel", "qemu-nbd", "nbd://localhost"))


def test_files_are_no_exports():
    assert not any(is_nbd_uri(text) for text in ("/dev/nbd0", "nbd", "nbd:x", "./nbd://x", "disk.raw"))


# --- what is read


def test_an_export_is_captured_and_compared(tiny, tmp_path):
    captured(tiny, tmp_path / "s", Lies())
    changed = CONTENT[:BLOCK] + b"x" + CONTENT[BLOCK + 1 : -4000] + bytes(4000)
    captured(tiny, tmp_path / "s", Lies(swaps=False), changed)
    tiny.check()


def test_replies_may_come_in_any_order(tmp_path):
    with (
        plain_nbd_server(tmp_path / "s", CONTENT, Lies(swaps=True)),
        NbdSource(NbdUri(tmp_path / "s")) as source,
    ):
        buffer = bytearray(2 * MIB)
        source.read_into(512, memoryview(buffer))
        assert buffer == CONTENT[512 : 512 + 2 * MIB]


def test_any_number_of_pieces_is_read_from_a_server_that_takes_one_request_at_a_time(tmp_path, monkeypatch):
    """It takes no more requests while nobody takes its answers."""
    monkeypatch.setattr(nbd_stream, "_SILENCE_S", 10.0)
    content = noise(16 * MIB)
    with plain_nbd_server(tmp_path / "s", content), NbdSource(NbdUri(tmp_path / "s")) as source:
        buffer = bytearray(len(content))
        view = memoryview(buffer)
        source.read_pieces([(at, view[at : at + 512]) for at in range(0, len(content), 1024)])
        assert all(buffer[at : at + 512] == content[at : at + 512] for at in range(0, len(content), 1024))


def test_servers_without_chunks_are_read_too(tiny, tmp_path):
    unknown = struct.pack(">QIII", 0x0003E889045565A9, STRUCTURED, 0x80000001, 0)

    def plain(_command: int, cookie: int, offset: int, size: int, _honest: bytes) -> bytes:
        return struct.pack(">IIQ", 0x67446698, 0, cookie) + CONTENT[offset : offset + size]

    lies = Lies(answers=lambda option, honest: unknown if option == STRUCTURED else honest, reply=plain)
    captured(tiny, tmp_path / "s", lies)
    tiny.check()


def test_holes_and_zeros_are_not_read(tiny, tmp_path):
    asked = []

    def note(command: int, _cookie: int, offset: int, size: int, honest: bytes) -> bytes:
        asked.append((command, offset, size))
        return honest

    content = bytes(64 * MIB) + noise(BLOCK) + bytes(64 * MIB)
    captured(tiny, tmp_path / "s", Lies(reply=note), content)
    reads = [offset for command, offset, _ in asked if command == READ]
    assert min(reads) == 64 * MIB
    assert max(reads) < 68 * MIB
    tiny.check()


def test_an_export_that_can_be_written_to_is_refused(tiny, tmp_path):
    with pytest.raises(SourceError, match="for writing") as caught:
        captured(tiny, tmp_path / "s", Lies(flags=1))
    assert caught.value.hint


# --- servers that die, dawdle or lie


def refusing(option: int, kind: int, words: bytes = b"") -> Lies:
    answer = struct.pack(">QIII", 0x0003E889045565A9, option, kind, len(words)) + words
    return Lies(answers=lambda asked, honest: answer if asked == option else honest)


def instead(command: int, make, since: int = 0) -> Lies:
    def reply(asked: int, cookie: int, offset: int, size: int, honest: bytes) -> bytes | None:
        return make(cookie, offset, size, honest) if asked == command and offset >= since else honest

    return Lies(reply=reply)


def status(*extents: tuple[int, int], context: int = 1, times: int = 1):
    body = struct.pack(">I", context) + b"".join(struct.pack(">II", *extent) for extent in extents)
    return lambda cookie, *_: b"".join(chunk(5, cookie, body, done=n == times - 1) for n in range(times))


def data(cookie: int, at: int, size: int, *, done: bool = True) -> bytes:
    return chunk(1, cookie, struct.pack(">Q", at) + bytes(size), done=done)


HOSTILE = {
    "no NBD server": (Lies(greeting=b"HTTP/1.1 400 Bad Request"), "no NBD server"),
    "an old one": (Lies(greeting=b"NBDMAGICIHAVEOPT\0\0"), "too old"),
    "half a greeting": (Lies(greeting=b"NBDM", answers=lambda *_: b""), "hung up|reset|nothing"),
    "unknown export": (refusing(GO, 0x80000006, b"no such \x1b[31m disk"), "no export of this name: no such"),
    "wants TLS": (refusing(STRUCTURED, 0x80000005), "wants TLS"),
    "a refusal of no known kind": (refusing(SET_CONTEXT, 0x80000099), "refuses"),
    "no GO": (refusing(GO, 0x80000001), "too old"),
    "a long answer": (refusing(GO, 3, b"x" * 70_000), "keep to the protocol"),
    "endless answers": (
        Lies(answers=lambda option, honest: honest[:-20] * 300 if option == GO else honest),
        "come to an end",
    ),
    "another option's answer": (Lies(answers=lambda _, honest: honest[:8] + b"\0\0\0\1" + honest[12:]), "protocol"),
    "no size": (refusing(GO, 1), "no size"),
    "vast": (Lies(size=1 << 61), "too large"),
    "vast, but possible": (Lies(size=1 << 59), "too large"),
    "empty": (Lies(size=0), "empty"),
    "hangs up": (instead(READ, lambda *_: None), "hung up|reset|Broken pipe"),
    "hangs up later": (instead(READ, lambda *_: None, since=2 * MIB), "hung up|reset|Broken pipe"),
    "hangs up in a chunk": (instead(READ, lambda *given: given[-1][:-100]), "hung up|reset|nothing|protocol"),
    "says nothing": (instead(READ, lambda *_: b""), "nothing"),
    "noise": (instead(READ, lambda *_: noise(100)), "protocol"),
    "another cookie": (instead(READ, lambda cookie, *_: chunk(0, cookie + 99)), "protocol"),
    "a simple reply": (
        instead(READ, lambda cookie, _, size, __: struct.pack(">IIQ", 0x67446698, 0, cookie) + bytes(size)),
        "protocol",
    ),
    "a simple error": (
        instead(READ, lambda cookie, *_: struct.pack(">IIQ", 0x67446698, 5, cookie)), "Input/output error",
    ),
    "an error": (
        instead(READ, lambda cookie, *_: chunk(0x8001, cookie, struct.pack(">IH", 5, 3) + b"bad")),
        r"Input/output error \(bad\)",
    ),
    "an error of no known number": (
        instead(READ, lambda cookie, *_: chunk(0x8002, cookie, struct.pack(">IHQ", 9999, 0, 0))), "error 9999",
    ),
    "an error after bytes": (
        instead(READ, lambda cookie, at, size, _: data(cookie, at, size, done=False)
                + chunk(0x8001, cookie, struct.pack(">IH", 28, 0))), "No space",
    ),
    "a short error": (instead(READ, lambda cookie, *_: chunk(0x8001, cookie, b"\0")), "protocol"),
    "an unknown chunk": (instead(READ, lambda cookie, *_: chunk(77, cookie, b"??")), "protocol"),
    "nothing read": (instead(READ, lambda cookie, *_: chunk(0, cookie)), "protocol"),
    "half of it": (instead(READ, lambda cookie, at, size, _: data(cookie, at, size // 2)), "protocol"),
    "the same twice": (
        instead(READ, lambda cookie, at, size, _: data(cookie, at, size // 2, done=False)
                + data(cookie, at, size - size // 2)), "protocol",
    ),
    "too much": (instead(READ, lambda cookie, at, size, _: data(cookie, at, size + 1)), "protocol"),
    "elsewhere": (instead(READ, lambda cookie, at, size, _: data(cookie, at + 1, size)), "protocol"),
    "a hole elsewhere": (
        instead(READ, lambda cookie, at, *_: chunk(2, cookie, struct.pack(">QI", at + BLOCK, 1 << 30))), "protocol",
    ),
    "a vast hole": (
        instead(READ, lambda cookie, at, *_: chunk(2, cookie, struct.pack(">QI", at, 0xFFFFFFFF))), "protocol",
    ),
    "chunks of nothing": (instead(READ, lambda cookie, at, *_: data(cookie, at, 0, done=False) * 9), "protocol"),
    "empty chunks without end": (instead(READ, lambda cookie, *_: chunk(0, cookie, done=False) * 9), "protocol"),
    "crumbs": (
        instead(READ, lambda cookie, at, *_: b"".join(data(cookie, at + n, 1, done=False) for n in range(9000))),
        "protocol",
    ),
    "a status of a read": (instead(READ, status((1, 0))), "protocol"),
    "no status": (instead(STATUS, lambda cookie, *_: chunk(0, cookie)), "block status"),
    "no extents": (instead(STATUS, status()), "protocol"),
    "an extent of nothing": (instead(STATUS, status((0, 3))), "protocol"),
    "extents of another context": (instead(STATUS, status((BLOCK, 3), context=9)), "block status"),
    "extents twice": (instead(STATUS, status((BLOCK, 3), times=2)), "protocol"),
    "half an extent": (instead(STATUS, lambda cookie, *_: chunk(5, cookie, b"\0" * 9)), "protocol"),
    "bytes for a status": (instead(STATUS, lambda cookie, *_: data(cookie, 0, 9)), "protocol"),
}  # fmt: skip


@pytest.mark.parametrize(("lies", "words"), HOSTILE.values(), ids=HOSTILE)
def test_a_bad_server_is_an_error_and_nothing_is_published(tiny, tmp_path, monkeypatch, lies, words):
    monkeypatch.setattr(nbd_stream, "_SILENCE_S", 0.3 if words == "nothing" else 3.0)
    with pytest.raises(SourceError, match=words) as caught:
        captured(tiny, tmp_path / "s", lies)
    assert caught.value.path == f"nbd+unix:///disk?socket={tmp_path / 's'}"
    assert names(tiny.folder) in ([], [".rollforward"])


def test_a_server_that_drips_is_too_slow(tmp_path, monkeypatch):
    from storage import nbd_client

    monkeypatch.setattr(nbd_client, "_REPLY_S", -1.0)
    path = tmp_path / "s"
    with plain_nbd_server(path, CONTENT), NbdSource(NbdUri(path)) as source:
        with pytest.raises(SourceError, match="too slow"):
            source.read_into(0, memoryview(bytearray(3 * MIB)))
        with pytest.raises(SourceError, match="too slow"):  # what came before is lost; nothing is mixed up
            source.read_into(0, memoryview(bytearray(512)))


def test_nobody_is_there(tiny, tmp_path):
    with pytest.raises(SourceError, match="no NBD server answers") as caught:
        capture(NbdAccess(NbdUri(tmp_path / "none")), tiny.folder, tiny.name, now=START)
    assert caught.value.hint
