"""Stream codec: frames of a streaming session to messages and back.

Rule: what is decoded is within bounds, whoever sent it; only `Malformed` escapes.
"""

import itertools

import msgspec

from gateway.core.timeline import FORKS_MAX, INCLUDED_MAX, Position, Timeline
from gateway.wire import stream as wire
from gateway.wire.accountant import FILE_BYTES_MAX
from gateway.wire.channel import Channel, Side
from gateway.wire.errors import Malformed, Reason
from gateway.wire.seal import NAME_BYTES_MAX, Keyring
from gateway.wire.stream import Message

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def stream_channel(keyring: Keyring, cluster: str, side: Side, opened: bytes, answered: bytes) -> Channel[Message]:
    """Return one end of a session. Raises `Malformed` as `Channel` does."""
    return Channel(keyring, cluster, side, opened, answered, encode=_encoder.encode, decode_untrusted=decode_untrusted)


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
        case wire.Hello():
            names_fit = _is_name(message.sender) and _is_name(message.receiver)
            return _timeline_fault(message.timeline) if names_fit else "a name is empty or too long"
        case wire.Welcome():
            return _welcome_fault(message)
        case wire.Refused():
            return _text_fault(message.reason) or _position_fault(message.held)
        case wire.Snapshot():
            if not _is_name(message.origin):
                return "the origin's name is empty or too long"
            if message.timeline.head.offset != message.length:
                return f"{message.length} bytes do not end at {message.timeline.head}"
            return _length_fault(message.length, FILE_BYTES_MAX) or _timeline_fault(message.timeline)
        case wire.Append():
            return _data_fault(message.data) or _position_fault(message.start)
        case wire.Accepted() | wire.Fetch() | wire.ForkAccepted():
            return _position_fault(message.position)
        case wire.Retell():
            return _timeline_fault(message.timeline)
        case wire.Blob():
            return _length_fault(message.length, wire.BLOB_BYTES_MAX)
        case wire.ForkOffer():
            return _length_fault(message.length, wire.BLOB_BYTES_MAX) or _position_fault(message.position)
        case wire.File():
            if not 0 <= message.mode <= 0o777:
                return f"mode {message.mode:o}"
            length_fault = _length_fault(message.length, wire.SHIPPED_FILE_BYTES_MAX)
            return length_fault or _path_fault(message.name) or _sum_fault(message.sha256)
        case wire.FileAccepted():
            return _path_fault(message.name) or _sum_fault(message.sha256)
        case wire.Declined():
            return _text_fault(message.reason)
        case wire.Chunk():
            return _data_fault(message.data)
        case wire.Done():
            return _sum_fault(message.sha256)
        case wire.Proceed() | wire.Missing() | wire.Retold() | wire.Keepalive():
            return ""


def _welcome_fault(welcome: wire.Welcome) -> str:
    if len(welcome.pending) > wire.PENDING_MAX or len(welcome.forks) > wire.FORKS_TOLD_MAX:
        return f"{len(welcome.pending)} pending histories, {len(welcome.forks)} forks"
    if not 0 <= welcome.records <= wire.NUMBER_MAX:
        return f"{welcome.records} records"
    faults = [_timeline_fault(timeline) for timeline in (welcome.held, *welcome.pending)]
    faults += [_position_fault(position) for position in welcome.forks]
    return next(filter(None, faults), "")


def _timeline_fault(timeline: Timeline) -> str:
    """A history that nobody can have: out of bounds, or not in order."""
    chain = [fork.position for fork in timeline.forks]
    if len(chain) > FORKS_MAX or len(timeline.included) > INCLUDED_MAX:
        return f"a history of {len(chain)} forks and {len(timeline.included)} others"
    for fault in map(_position_fault, (timeline.head, *chain, *timeline.included)):
        if fault:
            return fault
    if any(not 0 <= fork.taken_s <= wire.NUMBER_MAX for fork in timeline.forks):
        return "a fork at no time"
    terms = [position.term for position in (*chain, timeline.head)]
    others = [position.term for position in timeline.included]
    if not (_ascend(terms) and _ascend(others)):
        return "a history that is not in order"
    return "" if 0 not in (*terms[:-1], *others) else "a history with term 0 in it"


def _ascend(numbers: list[int]) -> bool:
    return all(one < next_one for one, next_one in itertools.pairwise(numbers))


def _position_fault(position: Position) -> str:
    numbers = (position.term, position.generation, position.offset)
    return "" if all(0 <= number <= wire.NUMBER_MAX for number in numbers) else f"position {position} is out of bounds"


def _length_fault(length: int, bytes_max: int) -> str:
    return "" if 0 <= length <= bytes_max else f"{length} bytes; at most {bytes_max}"


def _data_fault(data: bytes) -> str:
    return "" if 0 < len(data) <= wire.CHUNK_BYTES else f"{len(data)} bytes of data"


def _sum_fault(sha256: bytes) -> str:
    return "" if len(sha256) == wire.SHA256_BYTES else f"a checksum of {len(sha256)} bytes"


def _text_fault(text: str) -> str:
    return "" if len(text.encode()) <= wire.REASON_BYTES_MAX else "a reason too long"


def _path_fault(name: str) -> str:
    fits = name.startswith("/") and "\0" not in name and len(name.encode()) <= wire.PATH_BYTES_MAX
    return "" if fits else "not an absolute path"


def _is_name(name: str) -> bool:
    return 0 < len(name.encode()) <= NAME_BYTES_MAX
