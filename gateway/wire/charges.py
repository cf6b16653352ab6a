"""Charges: where an accounting file says that it was charged, and does not yet say what.

A negotiator writes LastUpdateTime first, by itself, and the customers' new amounts behind it, in a transaction
(src/condor_negotiator.V6/Accountant.cpp, UpdatePriorities). Who goes on from between the two charges from that time on,
and nobody ever charges what was before it. Rule: such an announcement belongs to what follows it.
"""

import re
from typing import Final

TAIL_BYTES: Final = 64  # longer than the record: a time has at most 19 digits

_UPDATE: Final = b"103 Accountant. LastUpdateTime "
_ANNOUNCEMENT: Final = re.compile(rb"(?:\A|\n)(" + re.escape(_UPDATE) + rb"\d{1,19}\n)\Z")


def is_announcement(data: bytes) -> bool:
    """Tell whether `data` announces a charge, and is nothing else."""
    return announcement_bytes(data) == len(data) > 0


def announcement_bytes(tail: bytes) -> int:
    """Return how many bytes at the end of a tail announce a charge, in a file that holds an update before; or 0."""
    found = _ANNOUNCEMENT.search(tail)
    return 0 if found is None else len(found[1])


class Charges:
    """Watches a file go by, in pieces cut anywhere.

    The first update of a file is no announcement: without it the file would have none, as after a compaction.
    """

    def __init__(self) -> None:
        self._length = 0
        self._rest = b""
        self._first_at: int | None = None

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the file."""
        if self._first_at is None:
            window = self._rest + data
            at = window.find(_UPDATE)
            if at >= 0:
                self._first_at = self._length - len(self._rest) + at
            self._rest = window[-len(_UPDATE) :]
        self._length += len(data)

    def announced(self, closed_length: int, tail: bytes) -> int:
        """Return how many bytes before `closed_length` announce a charge that is not there; 0 for none.

        Args:
            closed_length: up to where records and transactions are whole.
            tail: the last `TAIL_BYTES` before that, or all there are.
        """
        length = announcement_bytes(tail)
        first = self._first_at is None or self._first_at >= closed_length - length
        return 0 if first else length
