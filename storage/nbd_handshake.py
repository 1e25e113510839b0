"""The first half of a conversation with an NBD server: which export, how large, what it can tell of itself.

Source: the NBD protocol, https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md, sections "Newstyle
negotiation" and "Option types".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from policies.errors import SourceError
from storage import nbd_wire as wire
from storage.nbd_stream import NbdStream
from storage.nbd_wire import Answer, HandshakeFlag, Info, Option, TransmissionFlag

_LIMIT_S: Final = 30.0
_ANSWERS_MAX: Final = 256
_ANSWER_BYTES_MAX: Final = 64 << 10
_WORDS_MAX: Final = 200
_BLOCK_MAX: Final = 64 << 10
_SIZE_MAX: Final = 1 << 60
_REQUEST_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class NbdTerms:
    """What was agreed on.

    Attributes:
        size_bytes: size of the export.
        read_only: whether nobody can write through this export.
        structured: whether replies come in chunks.
        whole_reads: whether a short read may be asked for in one chunk.
        contexts: numbers of the meta contexts that were asked for and exist, by name.
        request_bytes: the most that may be read at once; a power of two.
    """

    size_bytes: int
    read_only: bool
    structured: bool
    whole_reads: bool
    contexts: Mapping[bytes, int]
    request_bytes: int


def agree(stream: NbdStream, export: str, contexts: Sequence[bytes]) -> NbdTerms:
    """Greet a server and choose an export.

    Args:
        stream: a new connection.
        export: name of the export.
        contexts: names of meta contexts that are of interest.

    Raises:
        SourceError: the server does not know the export, is too old, or does not keep to the protocol.
    """
    stream.within(_LIMIT_S)
    magic, option_magic, flags = wire.GREETING.unpack(stream.take(wire.GREETING.size))
    if (magic, option_magic) != (wire.SERVER_MAGIC, wire.OPTION_MAGIC):
        raise stream.failed("what answers there is no NBD server, or too old a one")
    if not flags & HandshakeFlag.FIXED_NEWSTYLE:
        raise stream.failed("the NBD server is too old")
    known = HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES
    stream.send(wire.CLIENT_FLAGS.pack(flags & known))
    name = wire.U32.pack(len(export.encode())) + export.encode()
    structured = _ask(stream, Option.STRUCTURED_REPLY, b"") is not None
    found = _meta_contexts(stream, name, contexts) if structured and contexts else {}
    wanted = wire.U16.pack(1) + wire.U16.pack(Info.BLOCK_SIZE)
    answers = _ask(stream, Option.GO, name + wanted)
    if answers is None:
        raise stream.failed("the NBD server is too old: it does not know how to GO")
    return _terms(stream, answers, structured, found)


def _meta_contexts(stream: NbdStream, name: bytes, contexts: Sequence[bytes]) -> dict[bytes, int]:
    queries = b"".join(wire.U32.pack(len(context)) + context for context in contexts)
    content = name + wire.U32.pack(len(contexts)) + queries
    found: dict[bytes, int] = {}
    for kind, answer in _ask(stream, Option.SET_META_CONTEXT, content) or ():
        if kind == Answer.META_CONTEXT and len(answer) > wire.U32.size and answer[4:] in contexts:
            found[answer[4:]] = wire.U32.unpack_from(answer)[0]
    if len(set(found.values())) != len(found):
        raise stream.failed("the NBD server gives two meta contexts one number")
    return found


def _terms(
    stream: NbdStream, answers: Sequence[tuple[int, bytes]], structured: bool, found: Mapping[bytes, int]
) -> NbdTerms:
    size, flags, request_bytes = None, TransmissionFlag(0), _REQUEST_BYTES
    for kind, answer in answers:
        about = wire.U16.unpack_from(answer)[0] if kind == Answer.INFO and len(answer) >= 2 else None
        if about == Info.EXPORT and len(answer) == wire.INFO_EXPORT.size:
            _, size, flags = wire.INFO_EXPORT.unpack(answer)
        elif about == Info.BLOCK_SIZE and len(answer) == wire.INFO_BLOCK_SIZE.size:
            _, least, _, most = wire.INFO_BLOCK_SIZE.unpack(answer)
            if least > _BLOCK_MAX or most < _BLOCK_MAX:
                raise stream.failed(f"the NBD server takes only requests of {least:,} to {most:,} bytes")
            request_bytes = min(request_bytes, 1 << (most.bit_length() - 1))
    if size is None or size > _SIZE_MAX:
        raise stream.failed("the NBD server gives the export no size" if size is None else "is too large")
    return NbdTerms(
        size,
        bool(flags & TransmissionFlag.READ_ONLY),
        structured,
        structured and bool(flags & TransmissionFlag.SEND_DF),
        dict(found),
        request_bytes,
    )


def _ask(stream: NbdStream, option: Option, content: bytes) -> list[tuple[int, bytes]] | None:
    """Send an option; return all that is answered, or None where the server does not know it.

    Raises:
        SourceError: it refuses.
    """
    stream.send(wire.OPTION.pack(wire.OPTION_MAGIC, option, len(content)) + content)
    answers: list[tuple[int, bytes]] = []
    for kind, answer in _answers(stream, option):
        if kind == Answer.ACK:
            return answers
        if kind == Answer.UNSUPPORTED:
            return None
        if kind & wire.ANSWER_ERROR:
            raise _refusal(stream, kind, answer)
        answers.append((kind, answer))
    raise stream.failed("the NBD server does not come to an end")


def _answers(stream: NbdStream, option: Option) -> Iterator[tuple[int, bytes]]:
    for _ in range(_ANSWERS_MAX):
        magic, asked, kind, size = wire.OPTION_REPLY.unpack(stream.take(wire.OPTION_REPLY.size))
        if magic != wire.OPTION_REPLY_MAGIC or asked != option or size > _ANSWER_BYTES_MAX:
            raise stream.failed("the NBD server does not keep to the protocol")
        yield kind, stream.take(size)


def _refusal(stream: NbdStream, kind: int, answer: bytes) -> SourceError:
    words = {
        Answer.UNKNOWN: "the NBD server has no export of this name",
        Answer.POLICY: "the NBD server does not allow it",
        Answer.TLS_REQUIRED: "the NBD server wants TLS, which is not supported",
    }.get(Answer(kind) if kind in list(Answer) else Answer.ACK, "the NBD server refuses")
    said = answer[:_WORDS_MAX].decode(errors="replace")
    return stream.failed(f"{words}: {said}" if said else words)
