"""Stream: what a leader and a standby say to each other while the accounting file is shipped as it is written.

Rule: a decoded message is within bounds whatever was sent; whether it is true is for the receiver to find out.

    leader                                        standby
    Hello(sender, receiver, timeline)             Welcome(held, records, pending, forks) | Refused
    Snapshot(timeline, origin, length)
        Chunk ... Done(sha256)                    Accepted(position) | Refused
    Append(start, data, closed) ...               Accepted(position), once for many | Refused
    Retell(timeline)                              Retold
    Fetch(position)                               Blob(length), Chunk ... Done(sha256) | Missing
    ForkOffer(position, length)                   Proceed | Declined
        Chunk ... Done(sha256)                    ForkAccepted(position) | Declined
    File(name, length, sha256, mode)              Proceed | FileAccepted | Declined
        Chunk ... Done(sha256)                    FileAccepted(name, sha256) | Declined
    Keepalive                                     Keepalive

What is long goes in chunks of a named transfer, so that records pass between the chunks of a file. `Refused` ends the
connection; `Declined` is of one offer only. Bounds: `gateway.wire.stream_codec`; frames: `gateway.wire.channel`.
"""

import enum
from typing import Final

import msgspec

from gateway.core.timeline import Position, Timeline
from gateway.wire.journal import JOURNAL_BYTES_MAX

CHUNK_BYTES: Final = 64 * 1024  # some 60 us to seal: the event loop is never held longer
BLOB_BYTES_MAX: Final = JOURNAL_BYTES_MAX
SHIPPED_FILE_BYTES_MAX: Final = 64 * 1024 * 1024  # of `replicate file`
PENDING_MAX: Final = 4  # histories told at once; with the held one they fill a frame. The rest is told another time
FORKS_TOLD_MAX: Final = 64
PATH_BYTES_MAX: Final = 4096  # PATH_MAX of Linux
REASON_BYTES_MAX: Final = 300
NUMBER_MAX: Final = 2**63 - 1
SHA256_BYTES: Final = 32


class Transfer(enum.IntEnum):
    """What a chunk is of. One of each kind at a time."""

    SNAPSHOT = 1
    OFFER = 2  # a fork or a file
    BLOB = 3  # what was fetched


class Refusal(enum.StrEnum):
    """Why a standby takes no more from this connection; besides what its store refuses, under the store's names."""

    NOT_LEADER = "not-leader"  # it does not hold the sender for the leader of that term
    OUT_OF_ORDER = "out-of-order"  # not what follows what it holds
    TOO_LONG = "too-long"  # more than was announced, or than fits
    TOO_SHORT = "too-short"  # less than was announced
    BAD_CHECKSUM = "bad-checksum"
    NOT_STORED = "not-stored"  # its disk would not


class _Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An array on the wire, its tag first."""


class Hello(_Message, frozen=True, tag="hello"):
    """First message of the leader. `timeline`: its history; the head's term is the term that it leads."""

    sender: str
    receiver: str
    timeline: Timeline


class Welcome(_Message, frozen=True, tag="welcome"):
    """First message of the standby: what is on its disk.

    `held`: within the leader's history, or nothing. `records`: how many those are. `pending`: histories that no leader
    has yet. `forks`: contents that it keeps for merging.
    """

    held: Timeline
    records: int
    pending: tuple[Timeline, ...]
    forks: tuple[Position, ...]


class Refused(_Message, frozen=True, tag="refused"):
    """Nothing more is taken on this connection. `reason`: a `Refusal`, or a name of the store's."""

    reason: str
    held: Position


class Snapshot(_Message, frozen=True, tag="snapshot"):
    """A whole state follows in chunks; its head is where it ends. Replaces what the standby holds."""

    timeline: Timeline
    origin: str
    length: int


class Append(_Message, frozen=True, tag="append"):
    """The next bytes of the file. `closed`: a transaction ends with them, so that they may be kept."""

    start: Position
    data: bytes
    closed: bool


class Accepted(_Message, frozen=True, tag="accepted"):
    """Everything up to there is on the standby's disk (after fsync)."""

    position: Position


class Retell(_Message, frozen=True, tag="retell"):
    """The same state has another history now: what everybody holds was left out."""

    timeline: Timeline


class Retold(_Message, frozen=True, tag="retold"):
    """It is on the standby's disk."""


class Fetch(_Message, frozen=True, tag="fetch"):
    """Send the journal of that pending history, or that fork."""

    position: Position


class Blob(_Message, frozen=True, tag="blob"):
    """It follows in chunks."""

    length: int


class Missing(_Message, frozen=True, tag="missing"):
    """It is not there (any more)."""


class ForkOffer(_Message, frozen=True, tag="fork"):
    """A journal with the content at a fork, which the standby lacks."""

    position: Position
    length: int


class ForkAccepted(_Message, frozen=True, tag="fork-accepted"):
    """It is kept."""

    position: Position


class File(_Message, frozen=True, tag="file"):
    """A replicated file has changed. `name`: its absolute path, as configured; `mode`: its permission bits."""

    name: str
    length: int
    sha256: bytes
    mode: int


class FileAccepted(_Message, frozen=True, tag="file-accepted"):
    """The file with that content is at its place on the standby (after fsync and rename)."""

    name: str
    sha256: bytes


class Proceed(_Message, frozen=True, tag="proceed"):
    """The offer is taken: send the chunks."""


class Declined(_Message, frozen=True, tag="declined"):
    """The offer is not taken, or what came is not kept. Offer something else."""

    reason: str


class Chunk(_Message, frozen=True, tag="chunk"):
    """The next bytes of a transfer."""

    of: Transfer
    data: bytes


class Done(_Message, frozen=True, tag="done"):
    """All chunks of a transfer have been sent. `sha256`: of all of them."""

    of: Transfer
    sha256: bytes


class Keepalive(_Message, frozen=True, tag="alive"):
    """There was nothing to say for a second."""


Message = (
    Hello
    | Welcome
    | Refused
    | Snapshot
    | Append
    | Accepted
    | Retell
    | Retold
    | Fetch
    | Blob
    | Missing
    | ForkOffer
    | ForkAccepted
    | File
    | FileAccepted
    | Proceed
    | Declined
    | Chunk
    | Done
    | Keepalive
)
