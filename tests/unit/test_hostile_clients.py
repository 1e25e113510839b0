"""The server among clients that take all they can get, and over images that change under it."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest

from hsr.serving import connection
from hsr.serving.batches import BATCH_BYTES, Read, take_batch
from hsr.serving.point import PointReader
from hsr.serving.replies import Request
from tests.command import PROGRAM
from tests.nbd_client import CACHE, READ, STATUS, NbdClient
from tests.serving import server_in_thread
from tests.unit.tiny import BLOCK, TinyVolume, noise

MIB = 1 << 20
SIZE = 12 * MIB
GREEDY = 12


@pytest.fixture
def large(tiny: TinyVolume) -> TinyVolume:
    """Noise, so that stored bytes are as long as the plain ones, with a hole and changes in it."""
    tiny.put(0, noise(5 * MIB, 1) + bytes(MIB) + noise(6 * MIB, 2))
    tiny.capture()
    for number in range(40):
        tiny.put(number * 300_000, noise(3000, number))
    tiny.capture()
    return tiny


@pytest.fixture
def reader(large: TinyVolume) -> Iterator[PointReader]:
    with PointReader([large.image(0), large.image(1)], 8 * BLOCK) as opened:
        yield opened


@pytest.fixture
def address(reader: PointReader, quick_path: Path) -> Iterator[Path]:
    with server_in_thread(reader, quick_path / "nbd.sock") as served:
        assert isinstance(served, Path)
        yield served


def request(command: int, offset: int, size: int, cookie: int = 1, flags: int = 0) -> bytes:
    return struct.pack(">IHHQQI", 0x25609513, flags, command, cookie, offset, size)


def send_all_that_is_taken(client: NbdClient, words: bytes) -> None:
    client.socket.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        for _ in range(2000):
            client.socket.send(words)


def memory_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.parametrize(
    ("structured", "asked"),
    [
        (True, request(READ, 0, SIZE)),
        (True, request(READ, 0, 4 * MIB, flags=4)),
        (True, request(READ, 4096, 60_000)),
        (True, request(STATUS, 0, SIZE)),
        (True, request(CACHE, 0, SIZE)),
        (True, request(99, 0, 0)),
        (False, request(READ, 0, SIZE)),
        (False, request(READ, 0, 3 * MIB)),
    ],
    ids=["long", "one chunk", "small", "status", "cache", "refused", "simple, long", "simple"],
)
def test_clients_that_never_read_starve_nobody(
    address: Path, large: TinyVolume, *, structured: bool, asked: bytes
) -> None:
    """A dozen of them hold their own shares, and no more; whoever comes next is served."""
    with contextlib.ExitStack() as stack:
        before = memory_bytes()
        for _ in range(GREEDY):
            greedy = stack.enter_context(NbdClient(address))
            greedy.go(structured=structured, status=structured)
            send_all_that_is_taken(greedy, asked)
        modest = stack.enter_context(NbdClient(address))
        modest.go()
        assert modest.read(0, SIZE) == large.states[1]
        assert memory_bytes() - before < GREEDY * 10 * MIB + 150 * MIB


def test_long_reads_that_cannot_be_split(address: Path, large: TinyVolume) -> None:
    with NbdClient(address) as plain, NbdClient(address) as other:
        plain.go(structured=False)
        other.go()
        plain.socket.sendall(
            request(READ, 10, SIZE - 10, 7) + request(READ, 0, 4096, 8) + request(READ, 5, 2 * MIB, 9)
        )
        assert other.read(3, 5 * MIB) == large.states[1][3 : 3 + 5 * MIB]
        got = {}
        for _ in range(3):
            magic, error, cookie = struct.unpack(">IIQ", plain.take(16))
            assert (magic, error) == (0x67446698, 0)
            size = {7: SIZE - 10, 8: 4096, 9: 2 * MIB}[cookie]
            got[cookie] = take(plain, size)
        state = large.states[1]
        assert got == {7: state[10:], 8: state[:4096], 9: state[5 : 5 + 2 * MIB]}
        other.request(READ, 0, 4 * MIB, flags=4)
        assert other.chunks()[0][1][8:] == state[: 4 * MIB]
        other.request(READ, 0, 4 * MIB + 1, flags=4)
        ((kind, content),) = other.chunks()
        assert (kind >> 15, struct.unpack_from(">I", content)[0]) == (1, 75)


def take(client: NbdClient, size: int) -> bytes:
    taken = bytearray()
    while len(taken) < size:
        taken += client.socket.recv(min(size - len(taken), MIB)) or b"?" * size
    return bytes(taken)


def test_reads_in_order_are_batched_and_each_is_answered(address: Path, large: TinyVolume) -> None:
    state = large.states[1]
    with NbdClient(address) as client:
        client.go()
        sizes = [70_000, 256 << 10, 3 * MIB, 1, 500, 2 * MIB, 100_000] * 2
        offsets = [sum(sizes[:number]) % (SIZE - 4 * MIB) for number in range(len(sizes))]
        ranges = list(zip(offsets, sizes, strict=True))
        client.socket.sendall(b"".join(request(READ, *each, cookie) for cookie, each in enumerate(ranges)))
        plain = {cookie: bytearray(b"?" * size) for cookie, size in enumerate(sizes)}
        left = set(plain)
        while left:
            _, flags, kind, cookie, size = struct.unpack(">IHHQI", client.take(20))
            content = take(client, size)
            if kind:
                (at,) = struct.unpack_from(">Q", content)
                part = content[8:] if kind == 1 else bytes(struct.unpack_from(">I", content, 8)[0])
                start = at - ranges[cookie][0]
                plain[cookie][start : start + len(part)] = part
            if flags & 1:
                left.remove(cookie)
        for cookie, (offset, size) in enumerate(ranges):
            assert plain[cookie] == state[offset : offset + size], cookie


def test_batches_hold_what_follows_each_other() -> None:
    def reads(*ranges: tuple[int, int]) -> deque[Read]:
        return deque(Read(Request(0, READ, 0, offset, size), offset) for offset, size in ranges)

    waiting = reads((0, 100), (100, 100), (300, 100), (400, BATCH_BYTES), (400, 2 * BATCH_BYTES))
    found = []
    while waiting:
        found.append([(part.offset, part.size) for part in take_batch(waiting)])
    assert found == [
        [(0, 100), (100, 100)],
        [(300, 100)],
        [(400, BATCH_BYTES)],
        [(400, BATCH_BYTES - 400)],
        [(BATCH_BYTES, BATCH_BYTES)],
        [(2 * BATCH_BYTES, 400)],
    ]


def test_damage_concerns_only_its_reads_of_a_batch(address: Path, large: TinyVolume) -> None:
    spoil(large.image(0), 3 * MIB)
    state = large.states[1]
    with NbdClient(address) as client:
        client.go()
        count, size = SIZE // (128 << 10), 128 << 10
        client.socket.sendall(b"".join(request(READ, n * size, size, n) for n in range(count)))
        failed = 0
        answers: dict[int, dict[int, bytes]] = {}
        while len([1 for each in answers.values() if -1 in each]) < count:
            _, flags, kind, cookie, length = struct.unpack(">IHHQI", client.take(20))
            content = take(client, length)
            answer = answers.setdefault(cookie, {})
            if kind >> 15:
                failed += 1
                assert str(large.image(0)).encode() in content
                assert b" at byte " in content
                answer[-2] = b""
            elif kind:
                (at,) = struct.unpack_from(">Q", content)
                answer[at] = content[8:] if kind == 1 else bytes(struct.unpack_from(">I", content, 8)[0])
            if flags & 1:
                answer[-1] = b""
        assert failed == 1
        for cookie, answer in answers.items():
            if -2 not in answer:
                got = b"".join(answer[at] for at in sorted(answer) if at >= 0)
                assert got == state[cookie * size : (cookie + 1) * size]


def spoil(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


@pytest.mark.parametrize("structured", [True, False])
def test_an_image_truncated_under_the_server(address: Path, large: TinyVolume, *, structured: bool) -> None:
    """What is cut off is an error that names file and byte; the rest is served, and nothing wrong ever."""
    state = large.states[1]
    with NbdClient(address) as client:
        client.go()
        assert client.read(0, 100) == state[:100]
        os.truncate(large.image(0), 4 * MIB)
        with pytest.raises(OSError, match=r"D_VOL.*at byte \d") as failure:
            client.read(6 * MIB, SIZE - 6 * MIB)
        assert failure.value.errno == 5
        assert client.read(MIB, 2 * MIB) == state[MIB : 3 * MIB]
    with NbdClient(address) as client:
        client.go(structured=structured)
        client.request(READ, 0, SIZE)
        if structured:
            assert client.chunks()[-1][0] >> 15
        else:
            assert client.simple_reply()[0] == 5
    with NbdClient(address) as client:
        client.go()
        assert client.read(0, 3 * MIB) == state[: 3 * MIB]


def test_an_image_overwritten_or_replaced_under_the_server(
    address: Path, large: TinyVolume, quick_path: Path
) -> None:
    state = large.states[1]
    image = large.image(0)
    with NbdClient(address) as client:
        client.go()
        assert client.read(0, 4096) == state[:4096]
        other = quick_path / "other"
        other.write_bytes(noise(image.stat().st_size, 77))
        other.replace(image)  # the server still has the old one
        assert client.read(0, SIZE) == state
    with NbdClient(address) as client:
        client.go()
        large.image(1).write_bytes(noise(large.image(1).stat().st_size, 78))  # the same file, other bytes
        for offset in range(0, SIZE, 100_000):
            size = min(100_000, SIZE - offset)
            with contextlib.suppress(OSError):
                assert client.read(offset, size) == state[offset : offset + size]


def test_half_a_request_and_a_flood_of_connections(address: Path, large: TinyVolume) -> None:
    with contextlib.ExitStack() as stack:
        for number in range(30):
            client = stack.enter_context(NbdClient(address))
            if number % 3:
                client.go()
                client.socket.sendall(request(READ, 0, 4096)[: number % 28])
            if number % 2:
                client.socket.shutdown(socket.SHUT_WR)
        with NbdClient(address) as last:
            last.go()
            assert last.read(0, SIZE) == large.states[1]


def test_more_clients_than_there_is_room_for_are_sent_away(address: Path, large: TinyVolume) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(NbdClient(address)) for _ in range(64)]
        for client in clients:
            client.go()
        with NbdClient(address) as one_more:
            assert one_more.is_cut_off()
        assert clients[-1].read(0, 5000) == large.states[1][:5000]


def test_who_takes_nothing_is_cut_off_with_many_small_answers(
    address: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_STUCK_S", 0.3)
    with NbdClient(address) as stuck:
        stuck.go()
        send_all_that_is_taken(stuck, request(READ, 4096, 60_000))
        hung_up = select.poll()
        hung_up.register(stuck.socket, select.POLLHUP)
        assert hung_up.poll(60_000)


@contextlib.contextmanager
def serve_with_few_descriptors(volume: TinyVolume, at: Path, spare: int) -> Iterator[subprocess.Popen[str]]:
    command = [PROGRAM, "serve", str(volume.folder), "--volume", volume.name, "--socket", str(at)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "Serving" in process.stdout.readline()
        try:
            few = len(list(Path(f"/proc/{process.pid}/fd").iterdir())) + spare
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (few, few))
            yield process
        finally:
            process.send_signal(signal.SIGTERM)


def test_out_of_file_descriptors_it_says_so_and_serves_on(large: TinyVolume, quick_path: Path) -> None:
    at = quick_path / "few.sock"
    with serve_with_few_descriptors(large, at, 4) as process, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(NbdClient(at)) for _ in range(12)]
        clients[0].go()
        waiting = clients[-1]
        waiting.socket.settimeout(60)
        served = threading.Event()

        def wait_for_turn() -> None:
            waiting.go()
            served.set()

        assert process.stderr is not None
        line = process.stderr.readline()
        assert "no more clients can be taken" in line
        assert "Too many open files" in line
        assert clients[0].read(0, SIZE) == large.states[1]
        thread = threading.Thread(target=wait_for_turn)
        thread.start()
        before = cpu_ticks(process.pid)
        assert not served.wait(1)
        assert cpu_ticks(process.pid) - before < os.sysconf("SC_CLK_TCK") // 2, "it looks again and again"
        for client in clients[:-1]:
            client.socket.close()
        assert served.wait(60)
        thread.join()
        assert waiting.read(0, MIB) == large.states[1][:MIB]
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert "Traceback" not in rest
        assert rest.count("no more clients can be taken") <= 2  # a minute may have passed
    assert process.returncode == 0


def test_out_of_file_descriptors_it_reads_what_was_never_read(tiny: TinyVolume, quick_path: Path) -> None:
    tiny.put(70 * MIB, noise(5 * BLOCK, 1))  # the first stretch of the index holds nothing
    tiny.capture()
    at = quick_path / "few.sock"
    with serve_with_few_descriptors(tiny, at, 1), NbdClient(at) as client:
        client.go()
        assert client.read(70 * MIB, 5 * BLOCK) == noise(5 * BLOCK, 1)


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
