"""Hello: whether a client's first bytes may be given to a second server when the first one died without an answer.

Rule: a yes is certain, a no costs nothing but the client's next try. HTCondor's framing is as in `cedar`.

Only the opening of a *new* security session may be repeated: an advertisement in clear text, by which the server has
done nothing yet. A raw command has acted as soon as it is read, and a resumed session is known to one server only.
"""

import struct
from typing import Final

from gateway.wire.cedar import SHARED_PORT_CONNECT

DC_AUTHENTICATE: Final = 60010  # src/condor_includes/condor_commands.h

PACKET_BYTES_MAX: Final = 1 << 20  # reli_sock.cpp, RCV_MSG: more is refused
END_MAX: Final = 10  # reli_sock.cpp takes 0..10 for the end byte; a sender says 0 (more follows) or 1 (the last)
STRING_BYTES_MAX: Final = 1_024  # shared_port_server.cpp, HandleConnectRequest: of an id and of a client's name
ARGUMENTS_MAX: Final = 100  # the same: of `more_args`
ATTRIBUTES_MAX: Final = 200  # a real one has 19

_HEADER: Final = struct.Struct("!BI")
_INTEGER: Final = struct.Struct("!q")


class _Unusual(Exception):  # noqa: N818 (no error: it only ends the reading)
    """The bytes are not the opening of a new session, or end before it does."""


def is_replayable_untrusted(data: bytes) -> bool:
    """Return whether `data`, all that a client has said, is the whole opening of a new session, and nothing else.

    It may be preceded by the name of a daemon behind a shared port (SHARED_PORT_CONNECT), which is as harmless.
    Never raises: what is cut short, foreign or broken is not replayable.
    """
    try:
        return _opens_new_session(data)
    except _Unusual:
        return False


def _opens_new_session(data: bytes) -> bool:
    message, end = _message(data, 0)
    if _integer(message, 0) == SHARED_PORT_CONNECT:
        _check_shared_port_connect(message)
        message, end = _message(data, end)
    if end != len(data) or _integer(message, 0) != DC_AUTHENTICATE:
        return False
    attributes = _attributes(message, _INTEGER.size)
    # What resumes a session names it (Sid), and says UseSession = "YES" in the place of NewSession = "YES".
    return (
        attributes.get(b"newsession") == b'"YES"'
        and b"sid" not in attributes
        and attributes.get(b"usesession", b'"NO"') != b'"YES"'
    )


def _message(data: bytes, start: int) -> tuple[bytes, int]:
    """Return the payload of the message at `start`, of one packet or more, and where it ends."""
    payload = b""
    last = 0
    while not last:
        body = start + _HEADER.size
        if len(data) < body:
            raise _Unusual
        last, length = _HEADER.unpack_from(data, start)
        if last > END_MAX or not 0 < length <= PACKET_BYTES_MAX or len(data) < body + length:
            raise _Unusual
        payload += data[body : body + length]
        start = body + length
    return payload, start


def _integer(payload: bytes, at: int) -> int:
    if len(payload) < at + _INTEGER.size:
        raise _Unusual
    value: int = _INTEGER.unpack_from(payload, at)[0]
    return value


def _string_end(payload: bytes, at: int) -> int:
    """Return where the NUL of the string at `at` stands."""
    end = payload.find(b"\0", at)
    if end < 0:
        raise _Unusual
    return end


def _check_shared_port_connect(payload: bytes) -> None:
    """Raise where `payload` is not: command, id, client's name, deadline, number of further arguments, those."""
    at = _INTEGER.size
    for _ in range(2):
        end = _string_end(payload, at)
        if end - at >= STRING_BYTES_MAX:
            raise _Unusual
        at = end + 1
    arguments = _integer(payload, at + _INTEGER.size)
    if not 0 <= arguments <= ARGUMENTS_MAX:
        raise _Unusual
    at += 2 * _INTEGER.size
    for _ in range(arguments):
        at = _string_end(payload, at) + 1
    if at != len(payload):
        raise _Unusual


def _attributes(payload: bytes, at: int) -> dict[bytes, bytes]:
    """Return the advertisement at `at`, the rest of the message: names in lower case (ClassAds do not mind) to values.

    A count, so many strings "Name = value", and two strings for the types, mostly empty.
    """
    count = _integer(payload, at)
    if not 0 < count <= ATTRIBUTES_MAX:
        raise _Unusual
    at += _INTEGER.size
    attributes: dict[bytes, bytes] = {}
    for _ in range(count):
        end = _string_end(payload, at)
        name, equals, value = payload[at:end].partition(b"=")
        name = name.strip().lower()
        if not equals or name in attributes:  # twice: which one the server takes is not ours to guess
            raise _Unusual
        attributes[name] = value.strip()
        at = end + 1
    for _ in range(2):
        at = _string_end(payload, at) + 1
    if at != len(payload):
        raise _Unusual
    return attributes
