"""Serving a point: the NBD server and what it reads from."""

from __future__ import annotations

import gc
import random
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hsr.serving import connection
from hsr.serving.background import served_in_background
from hsr.serving.cache import BlockCache
from hsr.serving.listener import private_socket
from hsr.serving.point import PointReader
from hsr.serving.server import tls_context
from policies.errors import ChainError, ConfigurationError
from tests.nbd_client import CACHE, FLUSH, LIST, READ, SET_CONTEXT, STATUS, STRUCTURED, TRIM, WRITE, NbdClient
from tests.serving import make_certificates, server_in_thread
from tests.unit.tiny import BLOCK, TinyVolume, noise

MIB = 1 << 20
SIZE = 3 * MIB + 700


@pytest.fixture
def lived(tiny: TinyVolume) -> TinyVolume:
    """A volume with data, holes, changes in parts of blocks, an odd size, and blocks that became zero."""
    tiny.put(0, noise(MIB, 1) + bytes(MIB) + noise(MIB + 700, 2))
    tiny.capture()
    tiny.put(5000, noise(3000, 3))
    tiny.put(MIB + 3 * BLOCK, noise(BLOCK * 2, 4))
    tiny.capture()
    tiny.put(4 * BLOCK, bytes(2 * BLOCK))
    tiny.put(5300, noise(100, 5))
    tiny.capture()
    return tiny


@pytest.fixture
def reader(lived: TinyVolume) -> Iterator[PointReader]:
    with PointReader([lived.image(number) for number in range(3)], 16 * BLOCK) as opened:
        yield opened


@pytest.fixture
def address(reader: PointReader, quick_path: Path) -> Iterator[Path]:
    with server_in_thread(reader, quick_path / "nbd.sock") as served:
        assert isinstance(served, Path)
        yield served


def test_any_range_reads_as_the_volume_was(lived: TinyVolume, reader: PointReader) -> None:
    chance = random.Random(1)
    for _ in range(300):
        offset = chance.randrange(SIZE)
        size = min(chance.choice([1, 512, 4096, 70_000, 400_000]), SIZE - offset)
        plain = bytearray(size)
        at_once = reader.read_at_once(offset, size)
        reader.read_into(offset, memoryview(plain))
        assert plain == lived.states[2][offset : offset + size]
        assert at_once in (None, plain)


def test_small_reads_are_answered_at_once_when_the_medium_is_not_needed(
    reader: PointReader, lived: TinyVolume
) -> None:
    reader.warm(0, 2 * BLOCK)
    assert reader.read_at_once(5000, 4096) == lived.states[2][5000:9096]


def test_a_path_that_begins_with_an_incremental_is_refused(lived: TinyVolume) -> None:
    with pytest.raises(ChainError, match="no base"):
        PointReader([lived.image(1)])


def test_extents_are_exact_where_nothing_is_held(reader: PointReader, lived: TinyVolume) -> None:
    at = 0
    for length, is_filled in reader.extents(0, SIZE):
        assert length > 0
        if not is_filled:
            assert not any(lived.states[2][at : at + length])
        at += length
    assert at == SIZE
    holes = sum(length for length, is_filled in reader.extents(0, SIZE) if not is_filled)
    assert holes == MIB  # two blocks of the middle were filled, two others became zero
    assert reader.extents(4 * BLOCK + 5, 10) == [(10, False)]


def test_structured_reads(address: Path, lived: TinyVolume) -> None:
    with NbdClient(address) as client:
        client.go(name=b"D_VOL")
        assert client.size == SIZE
        assert client.read(0, SIZE) == lived.states[2]
        for offset, size in ((1, 1), (4 * BLOCK - 3, 10), (SIZE - 1, 1), (MIB - 100_000, 500_000)):
            assert client.read(offset, size) == lived.states[2][offset : offset + size]


def test_simple_reads_for_clients_that_do_not_negotiate(address: Path, lived: TinyVolume) -> None:
    with NbdClient(address) as client:
        client.go(structured=False)
        for offset, size in ((0, SIZE), (77, 4096), (MIB - 9, 200_000)):
            client.request(READ, offset, size)
            assert client.simple_reply(size) == (0, lived.states[2][offset : offset + size])


def test_export_name_begins_the_old_way(address: Path, lived: TinyVolume) -> None:
    with NbdClient(address) as client:
        client.greet()
        client.socket.sendall(b"IHAVEOPT" + struct.pack(">II", 1, 5) + b"D_VOL")
        size, flags = struct.unpack(">QH", client.take(10))
        assert size == SIZE
        assert flags & 0b11 == 0b11
        client.request(READ, 0, 512)
        assert client.simple_reply(512) == (0, lived.states[2][:512])


def test_a_read_that_must_not_be_split_comes_as_one_chunk(address: Path, lived: TinyVolume) -> None:
    with NbdClient(address) as client:
        client.go()
        client.request(READ, 0, SIZE, flags=4)
        ((kind, content),) = client.chunks()
        assert (kind, content[8:]) == (1, lived.states[2])


def test_status_is_sparse(address: Path, reader: PointReader) -> None:
    with NbdClient(address) as client:
        client.go(status=True)
        expected = [(length, 0 if filled else 3) for length, filled in reader.extents(0, SIZE)]
        assert client.status(0, SIZE) == expected
        assert client.status(0, SIZE, flags=8) == expected[:1]
        assert client.status(10, 20) == [(20, 0)]


def test_the_one_export_is_listed(address: Path) -> None:
    with NbdClient(address) as client:
        client.greet()
        (kind, content), (end, _) = client.option(LIST)
        assert (kind, end) == (2, 1)
        assert content == struct.pack(">I", 5) + b"D_VOL" + b"a test"
        assert client.option(7, struct.pack(">I", 3) + b"bad" + b"\0\0")[-1][0] == 0x8000_0006
        assert client.option(99)[-1][0] == 0x8000_0001
        assert client.option(5)[-1][0] == 0x8000_0002
        assert client.option(SET_CONTEXT, bytes(8))[-1][0] == 0x8000_0003  # no structured replies yet
        assert client.option(STRUCTURED, b"x")[-1][0] == 0x8000_0003


@pytest.mark.parametrize("structured", [True, False])
def test_whatever_would_write_is_refused(address: Path, structured: bool) -> None:
    with NbdClient(address) as client:
        client.go(structured=structured)

        def error() -> int:
            if not structured:
                return client.simple_reply()[0]
            ((kind, content),) = client.chunks()
            return int(struct.unpack_from(">I", content)[0]) if kind >> 15 else 0

        client.request(WRITE, 0, 100_000)
        client.socket.sendall(noise(100_000))
        assert error() == 1
        for command, expected in ((TRIM, 1), (6, 1), (FLUSH, 0), (CACHE, 0), (99, 22), (STATUS, 22)):
            client.request(command, 0, 4096 if command != FLUSH else 0)
            assert error() == expected, command
        for offset, size in ((SIZE, 1), (SIZE - 1, 2), (1 << 63, 10), (0, 0), (0, (32 << 20) + 1)):
            client.request(READ, offset, size)
            assert error() == 22
        client.request(READ, 0, 10, flags=0x40)
        assert error() == 22


def test_many_requests_in_flight_are_all_answered(address: Path, lived: TinyVolume) -> None:
    with NbdClient(address) as client:
        client.go(structured=False)
        ranges = [(cookie * 1000 % (SIZE - 90_000), 100 if cookie % 3 else 90_000) for cookie in range(600)]
        sender = threading.Thread(
            target=lambda: [client.request(READ, *ranges[cookie], cookie=cookie) for cookie in range(600)]
        )
        sender.start()
        seen = set()
        for _ in range(600):
            magic, error, cookie = struct.unpack(">IIQ", client.take(16))
            assert (magic, error) == (0x67446698, 0)
            offset, size = ranges[cookie]
            assert client.take(size) == lived.states[2][offset : offset + size]
            seen.add(cookie)
        sender.join()
        assert seen == set(range(600))


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


@pytest.mark.parametrize("structured", [True, False])
@pytest.mark.parametrize("size", [512, 2 * MIB])
def test_damage_is_an_error_of_the_reads_concerned(
    lived: TinyVolume, address: Path, structured: bool, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    flip(lived.image(), 1000)  # a frame of the first blocks
    with NbdClient(address) as client:
        client.go(structured=structured)
        if structured:
            with pytest.raises(OSError, match="damaged at byte") as failure:
                client.read(0, size)
            assert failure.value.errno == 5
            assert client.read(2 * MIB, MIB) == lived.states[2][2 * MIB : 3 * MIB]
        else:
            client.request(READ, 0, size)
            assert client.simple_reply()[0] == 5
            client.request(READ, 2 * MIB, MIB)
            assert client.simple_reply(MIB) == (0, lived.states[2][2 * MIB : 3 * MIB])


def test_images_may_be_removed_while_they_are_served(lived: TinyVolume, address: Path) -> None:
    for number in range(3):
        lived.image(number).unlink()
    with NbdClient(address) as client:
        client.go()
        assert client.read(0, SIZE) == lived.states[2]


GARBAGE = {
    "nothing": b"",
    "noise": noise(5000, 9),
    "unknown flags": b"\xff" * 4,
    "an endless option": b"\0\0\0\3IHAVEOPT" + b"\0\0\0\7" + b"\xff" * 4,
    "no option magic": b"\0\0\0\3" + bytes(16),
    "a name too long": b"\0\0\0\3IHAVEOPT" + struct.pack(">IIIHH", 7, 8, 1 << 31, 0, 0),
    "queries without end": b"\0\0\0\3IHAVEOPT" + struct.pack(">IIII", 10, 8, 0, 0xFFFF_FFFF),
    "a huge write": b"\0\0\0\3IHAVEOPT"
    + struct.pack(">II", 1, 0)
    + struct.pack(">IHHQQI", 0x25609513, 0, 1, 0, 0, 0xFFFF_FFFF),
    "no request magic": b"\0\0\0\3IHAVEOPT" + struct.pack(">II", 1, 0) + bytes(280),
    "options without end": b"\0\0\0\3" + (b"IHAVEOPT" + struct.pack(">II", 99, 0)) * 2000,
}


@pytest.mark.parametrize("words", list(GARBAGE))
def test_garbage_ends_no_server(address: Path, lived: TinyVolume, words: str) -> None:
    with NbdClient(address) as client:
        client.socket.sendall(GARBAGE[words])
        client.socket.shutdown(1)
        assert client.is_cut_off()
    with NbdClient(address) as client:
        client.go()
        assert client.read(0, 100) == lived.states[2][:100]


def test_who_does_not_choose_in_time_is_cut_off(reader: PointReader, quick_path: Path) -> None:
    with (
        server_in_thread(reader, quick_path / "nbd.sock", handshake_s=0.1) as address,
        NbdClient(address) as client,
    ):
        assert client.is_cut_off()


def test_who_takes_no_answers_costs_little(reader: PointReader, address: Path, lived: TinyVolume) -> None:
    with NbdClient(address) as greedy, NbdClient(address) as modest:
        greedy.go()
        greedy.socket.setblocking(False)
        packed = struct.pack(">IHHQQI", 0x25609513, 0, READ, 7, 0, SIZE)
        try:
            while greedy.socket.send(packed * 100):
                pass
        except BlockingIOError:
            pass
        modest.go()
        assert modest.read(100, 100_000) == lived.states[2][100:100_100]


def test_the_socket_is_for_this_user_alone(address: Path) -> None:
    assert address.stat().st_mode & 0o777 == 0o600
    with pytest.raises(OSError, match="in use"):
        private_socket(address)


def test_a_socket_that_nobody_listens_on_is_replaced(tmp_path: Path) -> None:
    private_socket(tmp_path / "s").close()
    with private_socket(tmp_path / "s"), pytest.raises(OSError, match="in use"):
        private_socket(tmp_path / "s")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder)
    return folder


def test_tls_is_asked_for_before_anything_is_told(
    reader: PointReader, lived: TinyVolume, certificates: Path, tmp_path: Path
) -> None:
    ours = ssl.create_default_context(cafile=str(certificates / "ca-cert.pem"))
    with server_in_thread(reader, tmp_path / "s", tls=tls_context(certificates)) as address:
        with NbdClient(address) as client:
            client.greet()
            for option in (LIST, 7, STRUCTURED, 99):
                assert client.option(option)[-1][0] == 0x8000_0005
        with NbdClient(address) as client:
            client.greet()
            client.socket.sendall(b"IHAVEOPT" + struct.pack(">II", 1, 0))
            assert client.is_cut_off()
        with NbdClient(address) as client:  # without a certificate of its own
            client.greet()
            client.start_tls(ours, "127.0.0.1")
            with pytest.raises(OSError):
                client.option(STRUCTURED)
        ours.load_cert_chain(certificates / "client-cert.pem", certificates / "client-key.pem")
        with NbdClient(address) as client:
            client.greet()
            client.start_tls(ours, "127.0.0.1")
            assert client.option(5)[-1][0] == 0x8000_0003
            assert client.option(STRUCTURED)[-1][0] == 1
            assert client.option(7, bytes(6))[-1][0] == 1
            assert client.read(0, SIZE) == lived.states[2]


def test_bytes_before_the_tls_handshake_are_not_taken_for_encrypted_ones(
    reader: PointReader, certificates: Path, tmp_path: Path
) -> None:
    with (
        server_in_thread(reader, tmp_path / "s", tls=tls_context(certificates)) as address,
        NbdClient(address) as client,
    ):
        client.greet()
        start = b"IHAVEOPT" + struct.pack(">II", 5, 0)
        client.socket.sendall(start + b"IHAVEOPT" + struct.pack(">II", 3, 0))
        assert client.is_cut_off()


def test_certificates_that_are_missing_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no usable certificates"):
        tls_context(tmp_path)


def test_who_is_slow_is_served_and_who_takes_nothing_is_cut_off(
    lived: TinyVolume, address: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow client takes longer for its answers than one that takes none may."""
    monkeypatch.setattr(connection, "_STUCK_S", 0.5)
    asked = [struct.pack(">IHHQQI", 0x25609513, 0, READ, number, 0, 3 * MIB) for number in range(10)]
    with NbdClient(address) as slow:
        slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        slow.go(structured=False)
        slow.socket.sendall(b"".join(asked))
        begun = time.monotonic()
        for _ in asked:
            slow.take(16)
            for start in range(0, 3 * MIB, MIB // 4):
                assert slow.take(MIB // 4) == lived.states[2][start : start + MIB // 4]
                threading.Event().wait(0.02)
        assert time.monotonic() - begun > 2
    with NbdClient(address) as stuck:
        stuck.go(structured=False)
        stuck.socket.sendall(b"".join(asked))
        stuck.socket.settimeout(20)
        hung_up = select.poll()
        hung_up.register(stuck.socket, select.POLLHUP)
        assert hung_up.poll(20_000), "it still waits for a client that takes nothing"


def test_no_more_memory_than_the_volume_has_is_taken(lived: TinyVolume) -> None:
    with PointReader([lived.image(0)], 1 << 60) as opened:
        assert opened._cache._memory.nbytes == -(-SIZE // BLOCK) * BLOCK
    with pytest.raises(ConfigurationError, match="no room in memory"):
        BlockCache(1 << 60, BLOCK)


def test_a_socket_whose_name_is_too_long_is_refused_in_words(reader: PointReader, tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigurationError, match="too long"),
        server_in_thread(reader, tmp_path / ("x" * 120)),
    ):
        pass


def test_a_signal_while_the_thread_begins_leaves_nothing_that_runs(
    reader: PointReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []
    real = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        real(thread)
        if thread.name == "rollforward-part":
            begun.append(thread)
            raise SystemExit(143)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(SystemExit), served_in_background(reader, "part"):
        pytest.fail("it is served")
    assert len(begun) == 1
    assert begun[0].daemon, "it holds up no command that ends before it has begun"
    begun[0].join(10)
    assert not begun[0].is_alive()


def test_serving_in_the_background_leaves_no_loop_open(reader: PointReader) -> None:
    for _ in range(60):
        with served_in_background(reader, "part"):
            pass
    gc.collect()  # which would complain of one: warnings are errors
