"""Replica: how a whole file travels from the leader to a standby, sealed, on one TCP connection.

Rule: no byte is believed before it has been opened in its place. Nonces are given in; only `Malformed` escapes.

    sender                                  receiver
    opening: magic, key id, cluster, nonce
                                            answering: magic, nonce         (both in the clear)
    Hello(sender, receiver)                 Welcome(held_term, held_generation)
    Snapshot(term, generation, ...)         Proceed | Accepted | Refused
    Chunk ... Chunk, Done                   Accepted(term, generation) | Refused
    Snapshot ...                            and so on, as the file changes

From Hello on each message is a frame: length u32, then AES-256-GCM-SIV of the message. The session's key is derived
from the cluster's key and both openings, hence from both sides' nonces; the nonce of a frame is its direction and its
number. So a frame of another session, of the other direction, repeated, left out or moved does not open.
"""

import enum
import hashlib
import hmac
import struct
from collections.abc import Iterator
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag

from gateway.wire.errors import Malformed, Reason
from gateway.wire.seal import NAME_BYTES_MAX, Keyring

NONCE_BYTES: Final = 32
FILE_BYTES_MAX: Final = 64 * 1024 * 1024  # as gateway.wire.accountant: what a reader takes is what a link carries
CHUNK_BYTES: Final = 64 * 1024  # some 60 us to seal: the event loop is never held longer
FRAME_BYTES_MAX: Final = CHUNK_BYTES + 256  # a chunk, its msgpack and the seal's tag
NUMBER_MAX: Final = 2**63 - 1
SHA256_BYTES: Final = 32

_MAGIC: Final = b"CGR1"
_OPENING: Final = struct.Struct(f"!4sB4s{NONCE_BYTES}s")
_ANSWERING: Final = struct.Struct(f"!4s{NONCE_BYTES}s")
_LENGTH: Final = struct.Struct("!L")
OPENING_BYTES: Final = _OPENING.size
ANSWERING_BYTES: Final = _ANSWERING.size
_TAG_BYTES: Final = 16


class Kind(enum.StrEnum):
    """Which file a replica is of."""

    ACCOUNTING = "accounting"


class Replica(msgspec.Struct, frozen=True, kw_only=True):
    """A whole file as its leader had it: the closed prefix of the accounting file.

    Ordered by `version`: first the term of the leader that wrote it, then the number of the change in that term.
    """

    kind: Kind
    origin: str  # the node whose file it is
    term: int
    generation: int
    sha256: bytes  # of `data`
    data: bytes

    @property
    def version(self) -> tuple[int, int]:
        """Term and generation."""
        return self.term, self.generation


def make_replica(origin: str, term: int, generation: int, data: bytes, kind: Kind = Kind.ACCOUNTING) -> Replica:
    """Return `data` with its checksum."""
    sha256 = hashlib.sha256(data).digest()
    return Replica(kind=kind, origin=origin, term=term, generation=generation, sha256=sha256, data=data)


class Refusal(enum.StrEnum):
    """Why a standby does not take a snapshot."""

    STALE = "stale"  # it holds a newer one
    NOT_LEADER = "not-leader"  # it does not hold the sender for the leader of that term
    NOT_STORED = "not-stored"  # its disk would not


class Hello(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="hello"):
    """First frame of the sender."""

    sender: str
    receiver: str


class Welcome(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="welcome"):
    """First frame of the receiver: the version that it holds; (0, 0) where none."""

    held_term: int
    held_generation: int


class Snapshot(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="snapshot"):
    """A whole file is offered."""

    kind: Kind
    origin: str
    term: int
    generation: int
    length: int
    sha256: bytes


class Proceed(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="proceed"):
    """The offer is taken: send the chunks."""


class Chunk(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="chunk"):
    """The next bytes of the file."""

    data: bytes


class Done(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="done"):
    """All chunks have been sent."""


class Accepted(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="accepted"):
    """That version, or the same bytes, are on the standby's disk (after fsync)."""

    term: int
    generation: int


class Refused(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="refused"):
    """The snapshot was not taken; the receiver closes the connection."""

    reason: Refusal
    held_term: int
    held_generation: int


Frame = Hello | Welcome | Snapshot | Proceed | Chunk | Done | Accepted | Refused

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Frame] = msgspec.msgpack.Decoder(Frame)


class Side(enum.IntEnum):
    """Who seals: a part of every frame's nonce."""

    SENDER = 1
    RECEIVER = 2


def opening(keyring: Keyring, cluster: str, nonce: bytes) -> bytes:
    """Return the sender's first bytes. `nonce`: 32 random bytes, never used before."""
    return _OPENING.pack(_MAGIC, keyring.active, _cluster_tag(cluster), _checked_nonce(nonce))


def answering(nonce: bytes) -> bytes:
    """Return the receiver's first bytes. `nonce`: 32 random bytes, never used before."""
    return _ANSWERING.pack(_MAGIC, _checked_nonce(nonce))


class Channel:
    """One end of a session: seals messages into frames, and frames of the other end into messages.

    Args:
        keyring: the cluster's keys; the opening says which of them is used.
        cluster: the cluster's name.
        side: which end this is.
        opened: the sender's first `OPENING_BYTES` bytes.
        answered: the receiver's first `ANSWERING_BYTES` bytes.

    Raises:
        Malformed: TOO_SHORT, BAD_MAGIC, WRONG_CLUSTER, UNKNOWN_KEY: those bytes are not what they should be.
    """

    def __init__(self, keyring: Keyring, cluster: str, side: Side, opened: bytes, answered: bytes) -> None:
        if len(opened) != OPENING_BYTES or len(answered) != ANSWERING_BYTES:
            raise Malformed(Reason.TOO_SHORT, "opening")
        magic, key_id, cluster_tag, _ = _OPENING.unpack(opened)
        if magic != _MAGIC or answered[:4] != _MAGIC:
            raise Malformed(Reason.BAD_MAGIC, repr(magic))
        if cluster_tag != _cluster_tag(cluster):
            raise Malformed(Reason.WRONG_CLUSTER)
        self._cipher = keyring.session_cipher(key_id, opened + answered)
        self._cluster = cluster.encode()
        self._side = side
        self._sent = 0
        self._received = 0
        self._buffer = bytearray()

    def seal(self, message: Frame) -> bytes:
        """Return the next frame."""
        plain = _encoder.encode(message)
        assert len(plain) + _TAG_BYTES <= FRAME_BYTES_MAX, f"a {type(message).__name__} of {len(plain)} bytes"
        sealed = self._cipher.encrypt(_frame_nonce(self._side, self._sent), plain, self._cluster)
        self._sent += 1
        return _LENGTH.pack(len(sealed)) + sealed

    def receive_untrusted(self, data: bytes) -> Iterator[Frame]:
        """Yield the messages that `data` completes; the rest (at most one frame) is kept for the next call.

        Raises:
            Malformed: TOO_SHORT, TOO_LONG, BAD_SEAL, BAD_PAYLOAD. The session can't go on after that.
        """
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:  # ends when less than a frame is left
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > FRAME_BYTES_MAX:
                raise Malformed(Reason.TOO_LONG, f"a frame of {length} bytes")
            if length <= _TAG_BYTES:
                raise Malformed(Reason.TOO_SHORT, f"a frame of {length} bytes")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            sealed = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            yield self._open_untrusted(sealed)

    def _open_untrusted(self, sealed: bytes) -> Frame:
        other = Side.RECEIVER if self._side is Side.SENDER else Side.SENDER
        try:
            plain = self._cipher.decrypt(_frame_nonce(other, self._received), sealed, self._cluster)
        except InvalidTag:
            raise Malformed(Reason.BAD_SEAL, f"frame {self._received}") from None
        self._received += 1
        try:
            message = _decoder.decode(plain)
        except ValueError as error:
            raise Malformed(Reason.BAD_PAYLOAD, str(error)) from None
        if fault := _fault(message):
            raise Malformed(Reason.BAD_PAYLOAD, f"{type(message).__name__}: {fault}")
        return message


class Assembly:
    """A file on its way in: takes the chunks of one `Snapshot` and proves them whole."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._data = bytearray()
        self._digest = hashlib.sha256()

    def add_untrusted(self, chunk: Chunk) -> None:
        """Take the next bytes. Raises `Malformed` (TOO_LONG) beyond the announced length."""
        if len(self._data) + len(chunk.data) > self._snapshot.length:
            raise Malformed(Reason.TOO_LONG, f"more than the {self._snapshot.length} bytes announced")
        self._data += chunk.data
        self._digest.update(chunk.data)

    def finish_untrusted(self) -> Replica:
        """Return the file. Raises `Malformed` (TOO_SHORT, BAD_CHECKSUM) where it is not what was announced."""
        snapshot = self._snapshot
        if len(self._data) < snapshot.length:
            raise Malformed(Reason.TOO_SHORT, f"{len(self._data)} of {snapshot.length} bytes")
        if not hmac.compare_digest(self._digest.digest(), snapshot.sha256):
            raise Malformed(Reason.BAD_CHECKSUM, f"{snapshot.kind} {snapshot.term}.{snapshot.generation}")
        return Replica(
            kind=snapshot.kind,
            origin=snapshot.origin,
            term=snapshot.term,
            generation=snapshot.generation,
            sha256=snapshot.sha256,
            data=bytes(self._data),
        )


def offer(replica: Replica) -> Snapshot:
    """Return the message that announces `replica`."""
    return Snapshot(replica.kind, replica.origin, replica.term, replica.generation, len(replica.data), replica.sha256)


def body(replica: Replica) -> Iterator[Chunk | Done]:
    """Yield the messages that carry `replica` once its offer was taken."""
    for start in range(0, len(replica.data), CHUNK_BYTES):
        yield Chunk(replica.data[start : start + CHUNK_BYTES])
    yield Done()


def _cluster_tag(cluster: str) -> bytes:
    return hashlib.sha256(cluster.encode()).digest()[:4]


def _checked_nonce(nonce: bytes) -> bytes:
    if len(nonce) != NONCE_BYTES:
        raise ValueError(f"a session's nonce has {NONCE_BYTES} random bytes, not {len(nonce)}")
    return nonce


def _frame_nonce(side: Side, number: int) -> bytes:
    return bytes((side, 0, 0, 0)) + number.to_bytes(8, "big")


def _fault(message: Frame) -> str:
    """Say which bound `message` breaks; "" for none."""
    match message:
        case Hello():
            names_fit = all(0 < len(name.encode()) <= NAME_BYTES_MAX for name in (message.sender, message.receiver))
            return "" if names_fit else "a name is empty or too long"
        case Welcome() | Refused():
            return _version_fault(message.held_term, message.held_generation)
        case Accepted():
            return _version_fault(message.term, message.generation)
        case Snapshot():
            if not 0 <= message.length <= FILE_BYTES_MAX:
                return f"a file of {message.length} bytes; at most {FILE_BYTES_MAX}"
            if len(message.sha256) != SHA256_BYTES or not 0 < len(message.origin.encode()) <= NAME_BYTES_MAX:
                return "checksum or origin has the wrong length"
            return _version_fault(message.term, message.generation)
        case Chunk():
            return "" if 0 < len(message.data) <= CHUNK_BYTES else f"{len(message.data)} bytes"
        case Proceed() | Done():
            return ""


def _version_fault(term: int, generation: int) -> str:
    fits = 0 <= term <= NUMBER_MAX and 0 <= generation <= NUMBER_MAX
    return "" if fits else f"version {term}.{generation} is out of bounds"
