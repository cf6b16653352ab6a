"""CEDAR: the one question that a node asks a collector without credentials, and its answer.

Rule: bytes only. HTCondor's framing is src/condor_io/reli_sock.cpp: a packet is one end byte (1: last of its message),
four bytes of length (big-endian) and the payload; an integer is eight bytes big-endian, a string ends in NUL.
"""

import struct
from typing import Final

from gateway.wire.errors import Malformed, Reason

# HTCondor's command numbers (src/condor_includes/condor_commands.h).
SHARED_PORT_CONNECT: Final = 75
DC_QUERY_INSTANCE: Final = 60045

INSTANCE_CHARACTERS: Final = 16  # daemon_core_main.cpp, handle_dc_query_instance: 16 hexadecimal digits
DEADLINE_S: Final = 3  # how long condor_shared_port may take to hand the connection on
CLIENT_NAME: Final = "condor-gateway"  # stands in condor_shared_port's log

_HEADER: Final = struct.Struct("!BI")
_INTEGER: Final = struct.Struct("!q")
_LAST_PACKET: Final = 1
_HEX: Final = frozenset(b"0123456789abcdefABCDEF")


def _message(payload: bytes) -> bytes:
    return _HEADER.pack(_LAST_PACKET, len(payload)) + payload


def _integer(value: int) -> bytes:
    return _INTEGER.pack(value)


def _string(text: str) -> bytes:
    return text.encode("ascii") + b"\0"


def query_instance_request(*, shared_port: bool = True) -> bytes:
    """Return what asks a collector for its instance id: SHARED_PORT_CONNECT where it shares a port, DC_QUERY_INSTANCE.

    Without the first message condor_shared_port would answer for itself, and a dead collector look alive. On a
    collector that owns its port (USE_SHARED_PORT = False) it is an unknown command, and the connection is closed.
    """
    query = _message(_integer(DC_QUERY_INSTANCE))
    if not shared_port:
        return query
    connect = _message(
        _integer(SHARED_PORT_CONNECT)
        + _string("collector")
        + _string(CLIENT_NAME)
        + _integer(DEADLINE_S)
        + _integer(0)  # no further arguments
    )
    return connect + query


def parse_instance_untrusted(data: bytes) -> str | None:
    """Return the instance id (16 hexadecimal digits) in a collector's answer; None: more bytes are needed.

    Raises:
        Malformed: BAD_MAGIC (another framing), TOO_SHORT or TOO_LONG (another length), BAD_PAYLOAD (no such id).
            Raised by the first byte that is wrong: an answer can't make its reader wait for more.
    """
    if not data:
        return None
    if data[0] != _LAST_PACKET:
        raise Malformed(Reason.BAD_MAGIC, f"end byte {data[0]}, not {_LAST_PACKET}")
    if len(data) < _HEADER.size:
        return None
    _, length = _HEADER.unpack_from(data)
    if length != INSTANCE_CHARACTERS:
        reason = Reason.TOO_SHORT if length < INSTANCE_CHARACTERS else Reason.TOO_LONG
        raise Malformed(reason, f"a payload of {length} bytes, not {INSTANCE_CHARACTERS}")
    payload = data[_HEADER.size :]
    if len(payload) > INSTANCE_CHARACTERS:
        raise Malformed(Reason.TOO_LONG, f"{len(payload) - INSTANCE_CHARACTERS} bytes after the answer")
    if not _HEX.issuperset(payload):
        raise Malformed(Reason.BAD_PAYLOAD, "not hexadecimal digits")
    if len(payload) < INSTANCE_CHARACTERS:
        return None
    return payload.decode("ascii")
