"""Heartbeat: messages between nodes as bytes, the payload of a sealed datagram. Only `Malformed` escapes.

Rule: a decoded message is within bounds whatever was sent; what it means is the core's business.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import msgspec

from gateway.wire.errors import Malformed, Reason
from gateway.wire.messages import Ack, Message, Orders, Pulse, Resignation, Standing, VoteReply, VoteRequest
from gateway.wire.seal import PAYLOAD_BYTES_MAX

MESSAGE_BYTES_MAX: Final = PAYLOAD_BYTES_MAX
NUMBER_MAX: Final = 2**63 - 1  # terms, generations and times: what a signed 64-bit counter holds
WAIT_MS_MAX: Final = 3_600_000  # a promise lasts a lease; an hour is beyond any
LEASE_MS_MAX: Final = 3_600_000  # as WAIT_MS_MAX
ELECTIONS_MAX: Final = 16  # addresses and matchmakers of one cluster
PRIMED_MAX: Final = 32  # collector instances: 9 managers, each restarted a few times
NAME_CHARACTERS_MAX: Final = 64
REASON_CHARACTERS_MAX: Final = 200
VERSION_MAX: Final = 2**31 - 1  # of orders: with a checksum beside it, it is one number of a heartbeat
DRAINS_MAX: Final = 9  # as many as a cluster has nodes

BUNDLE_MAX: Final = 8  # messages of one datagram: one event of the election sends a peer two or three
BUNDLE_BYTES_MAX: Final = 1_080  # 1280, the least MTU of IPv6, without 48 of headers and 148 of a seal: no fragments
_BUNDLE: Final = b"\xc1"  # what no msgpack begins with (its specification, "never used")

# What was looked at is not looked at again: heartbeats say the same all the time, and calls are what looking costs.
# So much is remembered: how each node stands, with room for what changes; 50 KB, or 500 where a peer is mad.
SAYINGS_MAX: Final = 64

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """Return `message` as msgpack. A message of our own that is out of bounds is a bug: AssertionError."""
    data = _encoder.encode(message)
    assert len(data) <= MESSAGE_BYTES_MAX, f"a {type(message).__name__} of {len(data)} bytes is too long"
    assert not (fault := _fault(message)), f"{type(message).__name__}: {fault}"
    return data


def bundle(messages: Sequence[bytes]) -> list[bytes]:
    """Return encoded messages as payloads, in order; several that are small share one: `c1 (length u16 message)*`.

    Messages that one step sends to one peer are one datagram: to seal, send and take it costs as much as one message.
    """
    payloads: list[bytes] = []
    shared: list[bytes] = []
    room = BUNDLE_BYTES_MAX
    for message in messages:
        if shared and (len(message) + 2 > room or len(shared) == BUNDLE_MAX):
            payloads.append(_payload(shared))
            shared, room = [], BUNDLE_BYTES_MAX
        shared.append(message)
        room -= len(message) + 2
    if shared:
        payloads.append(_payload(shared))
    return payloads


def _payload(messages: list[bytes]) -> bytes:
    if len(messages) == 1:
        return messages[0]
    return _BUNDLE + b"".join(len(message).to_bytes(2, "big") + message for message in messages)


def unbundle_untrusted(payload: bytes) -> tuple[Message, ...]:
    """Return the messages of a payload, in order: all of them, or none.

    Raises:
        Malformed: as `decode_untrusted`; BAD_PAYLOAD also for an empty, cut or overfull bundle.
    """
    if payload[:1] != _BUNDLE:
        return (decode_untrusted(payload),)
    messages: list[Message] = []
    at = 1
    while at < len(payload) or not messages:  # ends: each turn takes two bytes at least
        end = at + 2 + int.from_bytes(payload[at : at + 2], "big")
        if at + 2 > len(payload) or end > len(payload):
            raise Malformed(Reason.BAD_PAYLOAD, "a bundle is cut short")
        if len(messages) == BUNDLE_MAX:
            raise Malformed(Reason.BAD_PAYLOAD, f"a bundle of more than {BUNDLE_MAX} messages")
        messages.append(decode_untrusted(payload[at + 2 : end]))
        at = end
    return tuple(messages)


def decode_untrusted(data: bytes) -> Message:
    """Return the message in `data`.

    Raises:
        Malformed: TOO_LONG, or BAD_PAYLOAD: not msgpack, not one of the messages, or a value out of bounds.
    """
    if len(data) > MESSAGE_BYTES_MAX:
        raise Malformed(Reason.TOO_LONG, f"{len(data)} bytes")
    try:
        message = _decoder.decode(data)
    except ValueError as error:  # msgspec's own errors, and a bare UnicodeDecodeError: all are ValueErrors
        raise Malformed(Reason.BAD_PAYLOAD, str(error)) from None
    if fault := _fault(message):
        raise Malformed(Reason.BAD_PAYLOAD, fault)
    return message


def _fault(message: Message) -> str:
    """Say which bound `message` breaks; "" for none."""
    if type(message) is Ack and 0 <= message.sent_ms <= NUMBER_MAX and _leads_sound(message.leads):
        return ""  # most messages are answers, and calls are what the checks below cost
    match message:
        case Pulse():
            return (
                _number_fault("sent_ms", message.sent_ms)
                or _number_fault("lease_ms", message.lease_ms, LEASE_MS_MAX)
                or (message.orders and _number_fault("orders", message.orders))
                or (not _leads_sound(message.leads) and _leads_fault(message.leads))
                or _saying_fault(message.standings, message.primed)
            )
        case Ack():
            return _number_fault("sent_ms", message.sent_ms) or _leads_fault(message.leads)
        case VoteRequest():
            return (
                _name_fault("election", message.election)
                or _number_fault("term", message.term)
                or _number_fault("sent_ms", message.sent_ms)
                or _number_fault("lease_ms", message.lease_ms, LEASE_MS_MAX)
            )
        case VoteReply():
            return (
                _name_fault("election", message.election)
                or _number_fault("term", message.term)
                or _number_fault("sent_ms", message.sent_ms)
                or _number_fault("highest_term", message.highest_term)
                or _number_fault("wait_ms", message.wait_ms, WAIT_MS_MAX)
            )
        case Resignation():
            if len(message.reason) > REASON_CHARACTERS_MAX:
                return f"reason has {len(message.reason)} characters"
            return (
                _name_fault("election", message.election)
                or _number_fault("term", message.term)
                or (message.successor and _name_fault("successor", message.successor))
            )
        case Orders():
            return orders_fault(message)


def orders_fault(orders: Orders) -> str:
    """Say which bound `orders` break; "" for none."""
    pause = orders.pause
    if not 1 <= orders.version <= VERSION_MAX:
        return f"version is {orders.version}"
    if len(orders.drains) > DRAINS_MAX:
        return f"{len(orders.drains)} nodes drained"
    if list(orders.drained) != sorted(set(orders.drained)):
        return "drained nodes out of order, or one of them twice"
    if pause is not None and (len(pause.reason) > REASON_CHARACTERS_MAX or not pause.reason.isprintable()):
        return f"a reason of {len(pause.reason)} characters, or not printable"
    names = [("origin", orders.origin), *(("drained", node) for node in orders.drained)]
    given = [(one.by, one.at_s) for one in (*orders.drains, *(() if pause is None else (pause,)))]
    faults = (
        *(_name_fault(field, name) for field, name in names),
        *(_name_fault("by", by) or _number_fault("at_s", at_s) for by, at_s in given),
        _number_fault("at_s", orders.at_s),
    )
    return next(filter(None, faults), "")


@lru_cache(SAYINGS_MAX)
def _saying_fault(standings: tuple[Standing, ...], primed: tuple[str, ...]) -> str:
    """Say which bound that part of a pulse breaks that is the same in most pulses of a node; "" for none."""
    if len(standings) > ELECTIONS_MAX:
        return f"{len(standings)} standings"
    if len(primed) > PRIMED_MAX:
        return f"{len(primed)} primed instances"
    if len({standing.election for standing in standings}) != len(standings):
        return "two standings in one election"
    for standing in standings:
        fault = (
            _name_fault("election", standing.election)
            or _number_fault("term", standing.term)
            or _number_fault("generation", standing.generation)
            or _number_fault("records", standing.records)
            or (standing.instance and _name_fault("instance", standing.instance))
        )
        if fault:
            return fault
    return next(filter(None, (_name_fault("instance", instance) for instance in primed)), "")


def _leads_sound(leads: tuple[tuple[str, int], ...]) -> bool:
    """Whether `_leads_fault` would find nothing; says no to more than one election, which are rare."""
    if len(leads) != 1:
        return not leads
    election, term = leads[0]
    return 0 < len(election) <= NAME_CHARACTERS_MAX and election.isprintable() and 0 <= term <= NUMBER_MAX


def _leads_fault(leads: tuple[tuple[str, int], ...]) -> str:
    if len(leads) > ELECTIONS_MAX:
        return f"{len(leads)} elections led"
    if len({election for election, _ in leads}) != len(leads):
        return "one election led twice"
    for election, term in leads:
        if fault := _name_fault("election", election) or _number_fault("term", term):
            return fault
    return ""


def _number_fault(field: str, number: int, number_max: int = NUMBER_MAX) -> str:
    return "" if 0 <= number <= number_max else f"{field} is {number}"


def _name_fault(field: str, name: str) -> str:
    if not 0 < len(name) <= NAME_CHARACTERS_MAX:
        return f"{field} has {len(name)} characters"
    return "" if name.isprintable() else f"{field} is not printable"
