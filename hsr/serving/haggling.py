"""The first half of a conversation over NBD: client and server agree on an export and how to talk about it.

Source: the NBD protocol, sections "Fixed newstyle negotiation", "TLS support" (forced mode) and "Option types".
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from struct import Struct
from typing import Final

from hsr.serving.connection import Connection, HostileClientError
from storage import nbd_wire as wire
from storage.nbd_wire import Answer, HandshakeFlag, Info, Option, TransmissionFlag

_OPTION_BYTES_MAX: Final = 32 << 10
_OPTIONS_MAX: Final = 256
_NAME_BYTES_MAX: Final = 4096


@dataclass(frozen=True, slots=True)
class Export:
    """What is offered.

    Attributes:
        name: the name that clients may give; the empty name means the same.
        description: a few words for people.
        size_bytes: its size.
        preferred_bytes: the size and alignment of requests that are answered with the least work.
    """

    name: str
    description: str
    size_bytes: int
    preferred_bytes: int


@dataclass(slots=True)
class Terms:
    """What client and server have agreed on.

    Attributes:
        structured: replies come in chunks.
        allocation: the client may ask where the volume holds anything.
    """

    structured: bool = False
    allocation: bool = False


async def haggle(connection: Connection, export: Export, tls: ssl.SSLContext | None) -> Terms | None:
    """Talk until the client has chosen the export.

    Args:
        connection: the client.
        export: what there is.
        tls: has to be used before anything is told, if given.

    Returns:
        The terms; None where the client does not want to go on.

    Raises:
        ConnectionError: the client has gone, or does not keep to the protocol.
    """
    return await _Haggling(connection, export, tls).run()


class _Haggling:
    def __init__(self, connection: Connection, export: Export, tls: ssl.SSLContext | None) -> None:
        self._connection = connection
        self._export = export
        self._tls = tls
        self._terms = Terms()
        self._waives_zeroes = False

    async def run(self) -> Terms | None:
        ours = HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES
        self._connection.write(wire.GREETING.pack(wire.SERVER_MAGIC, wire.OPTION_MAGIC, ours))
        (flags,) = wire.CLIENT_FLAGS.unpack(await self._connection.receive(wire.CLIENT_FLAGS.size))
        if flags & ~ours:
            raise HostileClientError("unknown flags")
        self._waives_zeroes = bool(flags & HandshakeFlag.NO_ZEROES)
        for _ in range(_OPTIONS_MAX):
            option, content = await self._receive_option()
            if option == Option.ABORT:
                self._answer(option, Answer.ACK)
                return None
            if await self._settle(option, content):
                return self._terms
            await self._connection.writable()
        raise HostileClientError("haggles without end")

    async def _receive_option(self) -> tuple[int, bytes]:
        magic, option, size = wire.OPTION.unpack(await self._connection.receive(wire.OPTION.size))
        if magic != wire.OPTION_MAGIC:
            raise HostileClientError("an option without its magic")
        if size > _OPTION_BYTES_MAX:
            raise HostileClientError("an option too long")
        return option, await self._connection.receive(size)

    async def _settle(self, option: int, content: bytes) -> bool:
        """Answer an option; tell whether it begins the transmission."""
        needs_tls = self._tls is not None and not self._connection.has_tls
        if option == Option.STARTTLS:
            await self._start_tls(content)
        elif option == Option.EXPORT_NAME:
            if needs_tls or not self._is_ours(content):
                raise HostileClientError("a name that is not served, where no reply is possible")
            zeroes = b"" if self._waives_zeroes else bytes(wire.ZEROES_BYTES)
            self._connection.write(wire.EXPORT_REPLY.pack(self._export.size_bytes, self._flags()) + zeroes)
            return True
        elif needs_tls:
            self._answer(option, Answer.TLS_REQUIRED, b"this server speaks TLS only")
        elif option in (Option.INFO, Option.GO):
            return self._inform(option, content) and option == Option.GO
        elif option in (Option.LIST_META_CONTEXT, Option.SET_META_CONTEXT):
            self._choose_contexts(option, content)
        elif option in (Option.LIST, Option.STRUCTURED_REPLY):
            self._answer_plain(option, content)
        else:
            self._answer(option, Answer.UNSUPPORTED)
        return False

    async def _start_tls(self, content: bytes) -> None:
        if self._tls is None:
            self._answer(Option.STARTTLS, Answer.POLICY, b"this server has no certificates")
        elif content or self._connection.has_tls:
            self._answer(Option.STARTTLS, Answer.INVALID)
        else:
            self._answer(Option.STARTTLS, Answer.ACK)
            self._terms = Terms()
            await self._connection.start_tls(self._tls)

    def _answer_plain(self, option: int, content: bytes) -> None:
        if content:
            self._answer(option, Answer.INVALID)
            return
        if option == Option.LIST:
            name = self._export.name.encode()
            self._answer(
                option, Answer.SERVER, wire.U32.pack(len(name)) + name + self._export.description.encode()
            )
        else:
            self._terms.structured = True
        self._answer(option, Answer.ACK)

    def _inform(self, option: int, content: bytes) -> bool:
        """Answer INFO or GO; tell whether the export is the one asked for."""
        reader = _Reader(content)
        name = reader.text()
        asked = [reader.number(wire.U16) for _ in range(reader.number(wire.U16))]
        if not reader.is_whole:
            self._answer(option, Answer.INVALID)
            return False
        if not self._is_ours(name):
            self._answer(option, Answer.UNKNOWN, b"there is no such export")
            return False
        size = self._export.size_bytes
        self._answer(option, Answer.INFO, wire.INFO_EXPORT.pack(Info.EXPORT, size, self._flags()))
        if Info.NAME in asked:
            self._answer(option, Answer.INFO, wire.U16.pack(Info.NAME) + self._export.name.encode())
        if Info.DESCRIPTION in asked:
            words = self._export.description.encode()
            self._answer(option, Answer.INFO, wire.U16.pack(Info.DESCRIPTION) + words)
        sizes = (1, self._export.preferred_bytes, wire.READ_BYTES_MAX)
        self._answer(option, Answer.INFO, wire.INFO_BLOCK_SIZE.pack(Info.BLOCK_SIZE, *sizes))
        self._answer(option, Answer.ACK)
        return True

    def _choose_contexts(self, option: int, content: bytes) -> None:
        is_choice = option == Option.SET_META_CONTEXT
        if is_choice:
            self._terms.allocation = False
        reader = _Reader(content)
        name = reader.text()
        queries = [reader.text() for _ in range(min(reader.number(wire.U32), _OPTION_BYTES_MAX))]
        if not reader.is_whole or not self._terms.structured:
            self._answer(option, Answer.INVALID)
            return
        if not self._is_ours(name):
            self._answer(option, Answer.UNKNOWN, b"there is no such export")
            return
        is_wanted = wire.ALLOCATION in queries or (not is_choice and (not queries or b"base:" in queries))
        if is_wanted:
            number = wire.ALLOCATION_ID if is_choice else 0
            self._answer(option, Answer.META_CONTEXT, wire.U32.pack(number) + wire.ALLOCATION)
            self._terms.allocation = is_choice or self._terms.allocation
        self._answer(option, Answer.ACK)

    def _is_ours(self, name: bytes) -> bool:
        return name in (b"", self._export.name.encode())

    def _flags(self) -> int:
        flags = TransmissionFlag.HAS_FLAGS | TransmissionFlag.READ_ONLY | TransmissionFlag.SEND_FLUSH
        flags |= TransmissionFlag.CAN_MULTI_CONN | TransmissionFlag.SEND_CACHE
        return flags | TransmissionFlag.SEND_DF if self._terms.structured else flags

    def _answer(self, option: int, kind: Answer, content: bytes = b"") -> None:
        head = wire.OPTION_REPLY.pack(wire.OPTION_REPLY_MAGIC, option, kind, len(content))
        self._connection.write(head + content)


class _Reader:
    """Takes an option's bytes apart; `is_whole` tells whether they were just enough."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    @property
    def is_whole(self) -> bool:
        return self._at == len(self._content)

    def number(self, layout: Struct) -> int:
        stop = self._at + layout.size
        value = 0
        if stop <= len(self._content):
            (value,) = layout.unpack_from(self._content, self._at)
        self._at = stop
        return value

    def text(self) -> bytes:
        size = self.number(wire.U32)
        text = self._content[self._at : self._at + size]
        self._at += size if size <= _NAME_BYTES_MAX else len(self._content) + 1
        return text
