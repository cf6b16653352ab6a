"""What guard and control say to each other: datagrams of a byte for the kind, then the fields by `marshal`.

Rule: both ends are the same program on the same host, started by each other: what arrives is trusted, and bounded.
"""

from __future__ import annotations

import marshal

TYPE_CHECKING = False  # `typing` takes 9 ms and 2 MiB, for nothing at run time
if TYPE_CHECKING:
    from typing import Any

MESSAGE_BYTES_MAX = 65_536  # a will with the node's file has 4 KiB; letters to 60 peers 12 KiB
DESCRIPTORS_MAX = 8  # of one message: a negotiator and its master are two

# From control.
READY = 1  # dead_ms, late_ms: control has started; from now on its silence is judged
BEAT = 2  # now_ms on CLOCK_BOOTTIME: control's event loop ran then
WILL = 3  # see `gateway.guard.will.Will`; its process descriptors go along
LETTERS = 4  # election, ((host, port, datagram), ...): to be sent when the will of this election is done
EXTEND = 5  # election, until_ms: the lease goes on; now_ms, as in BEAT
CLEAR = 6  # election: control serves it no more, and has said so itself
SPAWN_RELAY = 7  # token; the relay's end of its socket pair goes along
TAKEN_OVER = 8  # said by a new control: the old one may be forgotten

# From the guard.
HELLO = 65  # the guard's report, a dict: see `Guard.report`
SPAWNED = 66  # token, pid; a pidfd goes along
ENDED = 67  # token, pid, status as in `subprocess`, reason where it could not be started
FENCED = 68  # election: its lease has ended, and the guard has done its will, but for the letters
RELOAD = 69  # to the old control; its end of a socket pair to the new one goes along
RELOAD_FAILED = 70  # reason: go on as before


def encode(kind: int, *fields: Any) -> bytes:
    """Return one message. The fields are what `marshal` knows: numbers, text, bytes, tuples, None."""
    message = bytes((kind,)) + marshal.dumps(fields)
    assert len(message) <= MESSAGE_BYTES_MAX, f"a message of kind {kind} with {len(message)} bytes"
    return message


def decode(message: bytes) -> tuple[int, tuple[Any, ...]]:
    """Return kind and fields of one message."""
    return message[0], marshal.loads(message[1:])
