"""The NBD protocol on the wire: numbers and layouts, all big-endian.

    server  GREETING
    client  u32 flags
    client  OPTION, its bytes           server  OPTION_REPLY, its bytes         … until GO or EXPORT_NAME
    client  REQUEST                     server  SIMPLE_REPLY, or CHUNK after CHUNK, the last one marked

Source: the NBD protocol, https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md, sections "Newstyle
negotiation", "Request message", "Simple reply message", "Structured reply chunk message" and "Values".
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from struct import Struct
from typing import Final

GREETING: Final = Struct(">8s8sH")
"""Magic, option magic, handshake flags."""
CLIENT_FLAGS: Final = Struct(">I")
OPTION: Final = Struct(">8sII")
"""Option magic, option, bytes that follow."""
OPTION_REPLY: Final = Struct(">QIII")
"""Reply magic, option, reply type, bytes that follow."""
EXPORT_REPLY: Final = Struct(">QH")
"""What ends an EXPORT_NAME: size, transmission flags; then 124 zero bytes unless the client waived them."""
INFO_EXPORT: Final = Struct(">HQH")
"""Kind, size, transmission flags."""
INFO_BLOCK_SIZE: Final = Struct(">HIII")
"""Kind, smallest, preferred and largest size of a request."""
REQUEST: Final = Struct(">IHHQQI")
"""Magic, command flags, command, cookie, offset, size."""
SIMPLE_REPLY: Final = Struct(">IIQ")
"""Magic, error, cookie."""
CHUNK: Final = Struct(">IHHQI")
"""Magic, chunk flags, chunk type, cookie, bytes that follow."""
CHUNK_DATA: Final = Struct(">IHHQIQ")
"""A chunk and the offset of its data, which follow."""
CHUNK_HOLE: Final = Struct(">IHHQIQI")
"""A chunk, and the offset and size of a hole."""
CHUNK_ERROR: Final = Struct(">IHHQIIH")
"""A chunk, an error, and the bytes of words that follow."""
STATUS: Final = Struct(">II")
"""Size of an extent, and its flags."""
U16: Final = Struct(">H")
U32: Final = Struct(">I")
U64: Final = Struct(">Q")
HOLE: Final = Struct(">QI")
"""What a chunk of a hole holds: offset and size."""
ERROR: Final = Struct(">IH")
"""What a chunk of an error begins with: the error, and the bytes of words that follow."""

SERVER_MAGIC: Final = b"NBDMAGIC"
OPTION_MAGIC: Final = b"IHAVEOPT"
OPTION_REPLY_MAGIC: Final = 0x0003E889045565A9
REQUEST_MAGIC: Final = 0x25609513
SIMPLE_REPLY_MAGIC: Final = 0x67446698
CHUNK_MAGIC: Final = 0x668E33EF

ZEROES_BYTES: Final = 124
ALLOCATION: Final = b"base:allocation"
ALLOCATION_ID: Final = 1
READ_BYTES_MAX: Final = 32 << 20


class HandshakeFlag(IntFlag):
    """Flags of greeting and answer."""

    FIXED_NEWSTYLE = 1
    NO_ZEROES = 2


class Option(IntEnum):
    """What a client asks for before it reads."""

    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    STARTTLS = 5
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8
    LIST_META_CONTEXT = 9
    SET_META_CONTEXT = 10


class Answer(IntEnum):
    """Types of replies to options."""

    ACK = 1
    SERVER = 2
    INFO = 3
    META_CONTEXT = 4
    UNSUPPORTED = 0x8000_0001
    POLICY = 0x8000_0002
    INVALID = 0x8000_0003
    TLS_REQUIRED = 0x8000_0005
    UNKNOWN = 0x8000_0006
    TOO_BIG = 0x8000_0009


class Info(IntEnum):
    """Kinds of information about an export."""

    EXPORT = 0
    NAME = 1
    DESCRIPTION = 2
    BLOCK_SIZE = 3


DF_BYTES: Final = 65_536
"""Up to so many bytes, every server that offers DF answers a read in one chunk."""


class TransmissionFlag(IntFlag):
    """What an export can do."""

    HAS_FLAGS = 1 << 0
    READ_ONLY = 1 << 1
    SEND_FLUSH = 1 << 2
    SEND_DF = 1 << 7
    CAN_MULTI_CONN = 1 << 8
    SEND_CACHE = 1 << 10


class Command(IntEnum):
    """What a client may ask of an export."""

    READ = 0
    WRITE = 1
    DISCONNECT = 2
    FLUSH = 3
    TRIM = 4
    CACHE = 5
    WRITE_ZEROES = 6
    BLOCK_STATUS = 7


class CommandFlag(IntFlag):
    """Flags of requests."""

    DF = 1 << 2
    REQ_ONE = 1 << 3


class ChunkType(IntEnum):
    """Types of the chunks of a structured reply."""

    NONE = 0
    DATA = 1
    HOLE = 2
    BLOCK_STATUS = 5
    ERROR = 0x8001


CHUNK_DONE: Final = 1
"""Chunk flag: the last one of its reply."""

ERROR_KIND: Final = 1 << 15
"""Set in the type of every chunk that reports an error."""

ANSWER_ERROR: Final = 1 << 31
"""Set in the type of every answer that refuses an option."""

READS_ZERO: Final = 2
"""Flag of an extent in `base:allocation` that reads as zero."""

DIRTY_BITMAP: Final = b"qemu:dirty-bitmap:"
"""How the names of meta contexts begin that show a dirty bitmap of qemu."""

DIRTY: Final = 1
"""Flag of an extent in such a context that was written to."""

HOLE_ZERO: Final = 3
"""Status of an extent that is not stored and reads as zero."""


class NbdError(IntEnum):
    """The errors that the protocol knows."""

    NONE = 0
    EPERM = 1
    EIO = 5
    EINVAL = 22
    EOVERFLOW = 75
    ESHUTDOWN = 108
