"""Journal: an accounting history in a file that only grows, each piece of it proven by all that came before.

Rule: what does not prove itself ends the journal; what stands before it is as good as ever. Only `Malformed` escapes.

    magic, frame, frame, ...            frame: word (u32), digest (16 bytes), payload

The word holds the payload's length (at most 64 KiB) and two marks. HEAD: the payload says what the content is; the
first frame has this mark, and a later one replaces what was said before. CLOSED: with this frame the content is a
whole accounting state; frames without it are a part of what has yet to come. The payloads without HEAD, one after
another, are the leader's file, byte by byte. A digest is BLAKE2b (RFC 7693) of the digest before it, the word and the
payload: a frame that was changed, moved, left out or written twice proves nothing.

So a journal that a crash has cut anywhere ends at its last closed frame. A snapshot is closed by its last frame alone:
the first half of a compacted file knows half of the customers.
"""

import hashlib
import struct
from collections.abc import Iterator
from typing import Final

import msgspec

from gateway.wire.accountant import FILE_BYTES_MAX
from gateway.wire.errors import Malformed, Reason

MAGIC: Final = b"CGJOURN1"
PAYLOAD_BYTES_MAX: Final = 64 * 1024  # what a reader must take into memory before it may believe it
DIGEST_BYTES: Final = 16  # against accidents; who may write here may write anything

_CLOSED: Final = 1 << 31
_HEAD: Final = 1 << 30
_LENGTH: Final = _HEAD - 1
_FRAME: Final = struct.Struct(f"!L{DIGEST_BYTES}s")
_WORD: Final = struct.Struct("!L")
_FIRST_DIGEST: Final = bytes(DIGEST_BYTES)
FRAME_BYTES: Final = _FRAME.size  # before each payload

# The content, and as much again for frames: they weigh more than what they hold only below 20 bytes.
JOURNAL_BYTES_MAX: Final = 2 * FILE_BYTES_MAX


class Mark(msgspec.Struct, frozen=True):
    """Where a journal is closed, and can be gone on with.

    Attributes:
        file_bytes: of the journal's file.
        length: bytes of content.
        records: how many records they are: HTCondor writes one a line.
        digest: of the frame that ends here.
    """

    file_bytes: int
    length: int
    records: int
    digest: bytes


class Writer:
    """Makes frames: of a new journal, or behind `mark`. Tells what to write; who writes it is not its business."""

    def __init__(self, mark: Mark | None = None) -> None:
        self._mark = mark or Mark(0, 0, 0, _FIRST_DIGEST)

    @property
    def mark(self) -> Mark:
        """Return where the journal ends once all that was made is written."""
        return self._mark

    def head(self, head: bytes) -> bytes:
        """Return the frame that says what the content is; for a new journal, the beginning of its file."""
        mark = self._mark
        if mark.file_bytes:
            return self._frame(head, _HEAD | _CLOSED)
        self._mark = msgspec.structs.replace(mark, file_bytes=len(MAGIC))
        return MAGIC + self._frame(head, _HEAD)

    def data(self, data: bytes, *, closed: bool) -> Iterator[bytes]:
        """Yield the frames of `data`; `closed`: it ends a whole state, told by the last of them."""
        whole = max(len(data) - 1, 0) // PAYLOAD_BYTES_MAX * PAYLOAD_BYTES_MAX
        for start in range(0, whole, PAYLOAD_BYTES_MAX):
            yield self._frame(data[start : start + PAYLOAD_BYTES_MAX], 0)
        if closed or data:
            yield self._frame(data[whole:], _CLOSED if closed else 0)

    def _frame(self, payload: bytes, marks: int) -> bytes:
        assert len(payload) <= PAYLOAD_BYTES_MAX, f"a payload of {len(payload)} bytes"
        word = len(payload) | marks
        mark = self._mark
        digest = _digest(mark.digest, word, payload)
        file_bytes = mark.file_bytes + FRAME_BYTES + len(payload)
        if marks & _HEAD:
            self._mark = Mark(file_bytes, mark.length, mark.records, digest)
        else:
            self._mark = Mark(file_bytes, mark.length + len(payload), mark.records + payload.count(b"\n"), digest)
        return _FRAME.pack(word, digest) + payload


class Reader:
    """Takes a journal's bytes in order, in pieces cut anywhere; believes nothing that is not proven.

    Attributes:
        head: what the content is, by the newest frame that says so; b"" before the first.
        mark: the last place where the content is closed; None before the first.
        length: bytes of content that were proven, closed or not.
    """

    def __init__(self) -> None:
        self.head = b""
        self.mark: Mark | None = None
        self.length = 0
        self._records = 0
        self._file_bytes = 0
        self._digest = _FIRST_DIGEST
        self._rest = b""

    @property
    def torn(self) -> bool:
        """Return whether bytes were left over behind the last closed frame, as a crash leaves them."""
        return bool(self._rest) or self._file_bytes > (self.mark.file_bytes if self.mark else 0)

    def feed_untrusted(self, data: bytes) -> Iterator[bytes]:
        """Yield the content that `data` completes; less than a frame is kept for the next call. To be exhausted.

        Raises:
            Malformed: BAD_MAGIC, TOO_LONG, BAD_CHECKSUM, BAD_SEQUENCE. The journal ends before that; `mark` stands.
        """
        buffer = self._rest + data if self._rest else data
        position = 0
        if not self._file_bytes:
            if not MAGIC.startswith(buffer[: len(MAGIC)]):
                raise Malformed(Reason.BAD_MAGIC, repr(buffer[: len(MAGIC)]))
            if len(buffer) < len(MAGIC):
                self._rest = buffer
                return
            position = self._file_bytes = len(MAGIC)
        while len(buffer) - position >= FRAME_BYTES:  # ends when less than a frame is left
            word, digest = _FRAME.unpack_from(buffer, position)
            length = word & _LENGTH
            if length > PAYLOAD_BYTES_MAX or (not word & _HEAD and self.length + length > FILE_BYTES_MAX):
                raise Malformed(Reason.TOO_LONG, f"a frame of {length} bytes at byte {self._file_bytes}")
            start, end = position + FRAME_BYTES, position + FRAME_BYTES + length
            if end > len(buffer):
                break
            payload = buffer[start:end]
            if _digest(self._digest, word, payload) != digest:
                raise Malformed(Reason.BAD_CHECKSUM, f"at byte {self._file_bytes}")
            self._take(word, digest, payload)
            position = end
            if not word & _HEAD:
                yield payload
        self._rest = buffer[position:]

    def _take(self, word: int, digest: bytes, payload: bytes) -> None:
        if word & _HEAD:
            # The first says it of nothing yet; a later one of what is whole.
            of_whole = self.mark is not None and self.mark.file_bytes == self._file_bytes
            if bool(self.head) != bool(word & _CLOSED) or (self.head and not of_whole) or not payload:
                raise Malformed(Reason.BAD_SEQUENCE, f"a head at byte {self._file_bytes}")
            self.head = payload
        elif not self.head:
            raise Malformed(Reason.BAD_SEQUENCE, "content before its head")
        else:
            self.length += len(payload)
            self._records += payload.count(b"\n")
        self._file_bytes += FRAME_BYTES + len(payload)
        self._digest = digest
        if word & _CLOSED:
            self.mark = Mark(self._file_bytes, self.length, self._records, digest)


def _digest(before: bytes, word: int, payload: bytes) -> bytes:
    digest = hashlib.blake2b(before + _WORD.pack(word), digest_size=DIGEST_BYTES)
    digest.update(payload)
    return digest.digest()
