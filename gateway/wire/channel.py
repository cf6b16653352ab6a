"""Channel: messages on one TCP connection, sealed in their order.

Rule: no byte is believed before it has been opened in its place. Nonces are given in; only `Malformed` escapes.

    sender                                  receiver
    opening: magic, key id, cluster, nonce
                                            answering: magic, nonce         (both in the clear)
    frame ...                               frame ...

The magic says what is spoken: one port has several languages. A frame is its length (u32), then AES-256-GCM-SIV of a
message. The session's key is derived from the cluster's key and both openings, hence from both sides' nonces; the nonce
of a frame is its direction and its number. So a frame of another session, of the other direction, repeated, left out or
moved does not open.
"""

import enum
import hashlib
import struct
from collections.abc import Callable, Iterator
from typing import Final, Generic, TypeVar

from cryptography.exceptions import InvalidTag

from gateway.wire.errors import Malformed, Reason
from gateway.wire.seal import Keyring

NONCE_BYTES: Final = 32
PLAIN_BYTES_MAX: Final = 64 * 1024 + 512  # 64 KiB of a file and what goes with it: some 60 us to seal
MAGIC_BYTES: Final = 4
STREAM_MAGIC: Final = b"CGS1"  # a stream of accounting: `gateway.wire.stream`
LINK_MAGIC: Final = b"CGA1"  # a question to another node: `gateway.wire.link`
_OPENING: Final = struct.Struct(f"!4sB4s{NONCE_BYTES}s")
_ANSWERING: Final = struct.Struct(f"!4s{NONCE_BYTES}s")
_LENGTH: Final = struct.Struct("!L")
_TAG_BYTES: Final = 16
OPENING_BYTES: Final = _OPENING.size
ANSWERING_BYTES: Final = _ANSWERING.size
FRAME_BYTES_MAX: Final = PLAIN_BYTES_MAX + _TAG_BYTES

M = TypeVar("M")


class Side(enum.IntEnum):
    """Who seals: a part of every frame's nonce."""

    SENDER = 1
    RECEIVER = 2


def opening(keyring: Keyring, cluster: str, nonce: bytes, magic: bytes = STREAM_MAGIC) -> bytes:
    """Return the sender's first bytes. `nonce`: 32 random bytes, never used before."""
    return _OPENING.pack(magic, keyring.active, _cluster_tag(cluster), _checked_nonce(nonce))


def answering(nonce: bytes, magic: bytes = STREAM_MAGIC) -> bytes:
    """Return the receiver's first bytes. `nonce`: 32 random bytes, never used before."""
    return _ANSWERING.pack(magic, _checked_nonce(nonce))


class Channel(Generic[M]):
    """One end of a session: seals messages into frames, and frames of the other end into messages.

    Args:
        keyring: the cluster's keys; the opening says which of them is used.
        cluster: the cluster's name.
        side: which end this is.
        opened: the sender's first `OPENING_BYTES` bytes.
        answered: the receiver's first `ANSWERING_BYTES` bytes.
        magic: what is spoken here.
        encode: a message's bytes, at most `PLAIN_BYTES_MAX`.
        decode_untrusted: the message of such bytes; raises `Malformed`.

    Raises:
        Malformed: TOO_SHORT, BAD_MAGIC, WRONG_CLUSTER, UNKNOWN_KEY: those bytes are not what they should be.
    """

    def __init__(
        self,
        keyring: Keyring,
        cluster: str,
        side: Side,
        opened: bytes,
        answered: bytes,
        *,
        encode: Callable[[M], bytes],
        decode_untrusted: Callable[[bytes], M],
        magic: bytes = STREAM_MAGIC,
    ) -> None:
        if len(opened) != OPENING_BYTES or len(answered) != ANSWERING_BYTES:
            raise Malformed(Reason.TOO_SHORT, "opening")
        began, key_id, cluster_tag, _ = _OPENING.unpack(opened)
        if began != magic or answered[:MAGIC_BYTES] != magic:
            raise Malformed(Reason.BAD_MAGIC, repr(began))
        if cluster_tag != _cluster_tag(cluster):
            raise Malformed(Reason.WRONG_CLUSTER)
        self._cipher = keyring.session_cipher(key_id, opened + answered)
        self._cluster = cluster.encode()
        self._side = side
        self._other = Side.RECEIVER if side is Side.SENDER else Side.SENDER
        self._encode = encode
        self._decode_untrusted = decode_untrusted
        self._sent = 0
        self._received = 0
        self._buffer = bytearray()

    def seal(self, message: M) -> bytes:
        """Return the next frame: it must be the next that is sent."""
        plain = self._encode(message)
        assert len(plain) <= PLAIN_BYTES_MAX, f"a {type(message).__name__} of {len(plain)} bytes"
        sealed = self._cipher.encrypt(_frame_nonce(self._side, self._sent), plain, self._cluster)
        self._sent += 1
        return _LENGTH.pack(len(sealed)) + sealed

    def receive_untrusted(self, data: bytes) -> Iterator[M]:
        """Yield the messages that `data` completes; the rest (at most one frame) is kept for the next call.

        Raises:
            Malformed: TOO_SHORT, TOO_LONG, BAD_SEAL, and what decoding raises. The session can't go on after that.
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

    def _open_untrusted(self, sealed: bytes) -> M:
        try:
            plain = self._cipher.decrypt(_frame_nonce(self._other, self._received), sealed, self._cluster)
        except InvalidTag:
            raise Malformed(Reason.BAD_SEAL, f"frame {self._received}") from None
        self._received += 1
        return self._decode_untrusted(plain)


def _cluster_tag(cluster: str) -> bytes:
    return hashlib.sha256(cluster.encode()).digest()[:4]


def _checked_nonce(nonce: bytes) -> bytes:
    if len(nonce) != NONCE_BYTES:
        raise ValueError(f"a session's nonce has {NONCE_BYTES} random bytes, not {len(nonce)}")
    return nonce


def _frame_nonce(side: Side, number: int) -> bytes:
    return bytes((side, 0, 0, 0)) + number.to_bytes(8, "big")
