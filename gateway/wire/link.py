"""Link: what one node asks of another over TCP, and the answer, in parts. One question a connection.

Rule: a decoded message is within bounds whatever was sent; what is asked for is for the commands to judge.

    asking node                                   asked node
    Ask(sender, receiver, level, wait, request)
                                                  Part(data, last) ...

Request and answer are JSON documents, as at the admin socket. Frames and their seals: `gateway.wire.channel`.
"""

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from gateway.wire.channel import LINK_MAGIC, Channel, Side
from gateway.wire.errors import Malformed, Reason
from gateway.wire.seal import NAME_BYTES_MAX, Keyring

REQUEST_BYTES_MAX: Final = 16 * 1024  # as a line at the admin socket
PART_BYTES: Final = 64 * 1024  # some 60 us to seal: the event loop is never held longer
ANSWER_BYTES_MAX: Final = 4 * 1024 * 1024  # a status has 10 to 500 KB
WAIT_MS_MAX: Final = 600_000  # ten minutes: nobody waits longer for an answer
LEVELS: Final = (1, 2, 3)  # `gateway.control.commands.Level`


class _Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An array on the wire, its tag first."""


class Ask(_Message, frozen=True, tag="ask"):
    """A request, with what its sender permits itself, and for how long it waits for the answer."""

    sender: str
    receiver: str
    level: int
    wait_ms: int
    request: bytes


class Part(_Message, frozen=True, tag="part"):
    """The next bytes of the answer. `last`: the answer is whole."""

    data: bytes
    last: bool


Message = Ask | Part

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def link_channel(keyring: Keyring, cluster: str, side: Side, opened: bytes, answered: bytes) -> Channel[Message]:
    """Return one end of a session; the asking node is its sender. Raises `Malformed` as `Channel` does."""
    return Channel(
        keyring,
        cluster,
        side,
        opened,
        answered,
        encode=_encoder.encode,
        decode_untrusted=decode_untrusted,
        magic=LINK_MAGIC,
    )


def decode_untrusted(plain: bytes) -> Message:
    """Return the message of a frame. Raises `Malformed` (BAD_PAYLOAD)."""
    try:
        message = _decoder.decode(plain)
    except ValueError as error:
        raise Malformed(Reason.BAD_PAYLOAD, str(error)) from None
    if fault := _fault(message):
        raise Malformed(Reason.BAD_PAYLOAD, f"{type(message).__name__}: {fault}")
    return message


def _fault(message: Message) -> str:
    """Say which bound `message` breaks; "" for none."""
    match message:
        case Ask():
            if not all(0 < len(name.encode()) <= NAME_BYTES_MAX for name in (message.sender, message.receiver)):
                return "a name is empty or too long"
            if message.level not in LEVELS or not 0 < message.wait_ms <= WAIT_MS_MAX:
                return f"level {message.level}, {message.wait_ms} ms"
            length = len(message.request)
            return "" if 0 < length <= REQUEST_BYTES_MAX else f"a request of {length} bytes"
        case Part():
            return "" if 0 < len(message.data) <= PART_BYTES else f"{len(message.data)} bytes of an answer"


def document_untrusted(text: bytes) -> dict[str, Any]:
    """Return a request, or an answer. Raises `Malformed` (BAD_PAYLOAD) for what is no JSON object."""
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (ValueError, RecursionError) as error:
        raise Malformed(Reason.BAD_PAYLOAD, str(error)) from None


def parts(answer: bytes) -> Iterator[Part]:
    """Yield the parts of an answer, which has 1 to `ANSWER_BYTES_MAX` bytes."""
    assert 0 < len(answer) <= ANSWER_BYTES_MAX, f"an answer of {len(answer)} bytes"
    for start in range(0, len(answer), PART_BYTES):
        yield Part(answer[start : start + PART_BYTES], start + PART_BYTES >= len(answer))


class Joined:
    """The parts of one answer, as they come."""

    def __init__(self) -> None:
        self._data = bytearray()
        self.whole = False

    @property
    def answer(self) -> bytes:
        """What has come."""
        return bytes(self._data)

    def take_untrusted(self, message: Message) -> None:
        """Take the next part. Raises `Malformed` (BAD_SEQUENCE, TOO_LONG)."""
        if not isinstance(message, Part) or self.whole:
            raise Malformed(Reason.BAD_SEQUENCE, f"{type(message).__name__} in an answer")
        if len(self._data) + len(message.data) > ANSWER_BYTES_MAX:
            raise Malformed(Reason.TOO_LONG, f"an answer of more than {ANSWER_BYTES_MAX} bytes")
        self._data += message.data
        self.whole = message.last
