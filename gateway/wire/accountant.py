"""Accountant: HTCondor's accounting file (`Accountantnew.log`), as far as it may be trusted.

Rule: nothing in here guesses. A record either is one that a negotiator reads without harm, or the reading stops before
it, at a named place. What a record means is decided elsewhere (merging); here it is only proven whole.

One record a line, opcode first (src/condor_utils/classad_log.cpp, log.cpp):

    101 key mytype targettype    new ad              105 (and one blank)      a transaction begins
    102 key                      ad destroyed        106 (and one blank) [#comment]  it ends
    103 key attribute value      attribute set       107 sequence CreationTimestamp birthdate  first record
    104 key attribute            attribute deleted

HTCondor's reader takes words, not lines: a line with a word too few swallows the next one, and a blank line ends its
reading in silence. A corrupt record with any 106 behind it stops the negotiator for ever (exit 4). Therefore this
reader is stricter than HTCondor's: each line must stand by itself.
"""

import enum
import re
from typing import Final

import msgspec

from gateway.wire.ads import PLAIN_VALUE, PLAIN_WORD, RECORD, Records, Replay, State
from gateway.wire.errors import Malformed, Reason

__all__ = [
    "FILE_BYTES_MAX",
    "Reading",
    "Records",
    "Scan",
    "Scanner",
    "State",
    "Stop",
    "read_untrusted",
    "replay_untrusted",
    "scan_untrusted",
    "verify_untrusted",
]

# 100,000 customers take 71.5 MB compacted, and HTCondor lets a file grow to twice the live state before it compacts
# again (ClassAdLogAccountantDB.cpp): 143 MB. Below this a file is what a negotiator wrote; above it something else is.
FILE_BYTES_MAX: Final = 256 * 1024 * 1024

_PIECE_BYTES: Final = 64 * 1024
# What HTCondor's reader takes for the end of a transaction once it has met a corrupt record: sscanf "%d ".
_ANY_END: Final = re.compile(rb"^[^\S\n]*\+?0*106(?!\d)", re.MULTILINE)

# The Accountant itself writes integers, "%f" and quoted strings only. A backslash before the last quote of a line is
# a backslash, not an escape (old ClassAd syntax). A number with a leading zero would be octal: HTCondor refuses it.
_NUMBER: Final = rb"(?:0|[1-9]\d*)(?:\.\d+)?"
_LITERAL: Final = re.compile(rb"-?" + _NUMBER + rb"|\"(?:[^\"\\]|\\.)*\\?\"")
# Most of a file: many at once, and never looked at again (possessive), for a second look costs memory. A key that comes
# again (\1) is only compared.
_PLAIN_RECORDS: Final = re.compile(
    rb"""(?: 101[ ](W)[ ]W[ ]W\n (?: 103[ ]\1[ ]W[ ]V\n )*+ ){1,100}
       | (?: 103[ ]W[ ]W[ ]V\n ){1,1000}+
    """.replace(b"V", PLAIN_VALUE.encode()).replace(b"W", PLAIN_WORD.encode()),
    re.VERBOSE,
)
_RESERVED: Final = rb"(?i:true|false|undefined|error)\b"
_NAME: Final = rb"(?:(?!(?i:is|isnt)\b|" + _RESERVED + rb")[A-Za-z_]\w*|'(?:[^'\\]|\\.)+')"
_TOKEN: Final = re.compile(
    rb"\s*(?:(?P<field>" + _NAME + rb"\s*=(?![=?!]))"
    rb"|(?P<name>" + _NAME + rb")"
    rb"|(?P<operand>" + _NUMBER + rb"(?:[eE][-+]\d+)?(?![\w.])|\"(?:[^\"\\]|\\.)*\"|" + _RESERVED + rb")"
    rb"|(?P<select>\.\s*" + _NAME + rb")"
    rb"|(?P<binary>=\?=|=!=|\?:|\|\||&&|<<|>>>?|[<>=!]=|(?i:isnt|is)\b|[*/%<>|&^])"
    rb"|(?P<sign>[-+])|(?P<prefix>[!~])|(?P<open>[(\[{])|(?P<close>[)\]}])"
    rb"|(?P<when>\?)|(?P<otherwise>:)|(?P<comma>,)|(?P<semicolon>;))"
)


class Stop(enum.StrEnum):
    """Why a scan went no further."""

    END = "end"  # of the data, between two transactions: all of it is good
    TORN = "torn"  # the last line has no end: written just now, or cut by a crash
    OPEN = "open"  # the last transaction has no end
    CORRUPT = "corrupt"  # a whole line is not a record


class Scan(msgspec.Struct, frozen=True):
    """How far an accounting file is good.

    Attributes:
        closed_length: bytes up to which every record and every transaction is whole and valid.
        records: how many records those bytes hold.
        sequence: of the last 107 record; grows by one at each compaction; 0 where there is none.
        birthdate: from the same record, in seconds since 1970; 0 where there is none.
        stop: why the scan stopped.
        stop_offset: where: the torn or corrupt line, or the 105 of the open transaction; else the end.
        fatal: corrupt, with the end of a transaction behind it: a negotiator would not start on this.
    """

    closed_length: int
    records: int
    sequence: int
    birthdate: int
    stop: Stop
    stop_offset: int
    fatal: bool = False


class Scanner:
    """A scan that goes on: takes a file in pieces, cut anywhere, and keeps no more of it than its unfinished last line.

    Args:
        bytes_max: of the whole file; `FILE_BYTES_MAX` where it is not given.

    Attributes:
        closed_length: as in `Scan`, of all that was fed.
        records: how many records those bytes hold.
    """

    def __init__(self, bytes_max: int | None = None) -> None:
        self._bytes_max = FILE_BYTES_MAX if bytes_max is None else bytes_max
        self._position = 0  # of the first byte that no record has taken: where the unfinished line begins
        self._tail = bytearray()  # that line
        self._records = 0  # those of an open transaction too
        self._open_at: int | None = None
        self._corrupt_at: int | None = None
        self._fatal = False
        self._sequence = self._birthdate = 0
        self.closed_length = self.records = 0

    def feed_untrusted(self, data: bytes) -> None:
        """Take the next bytes. What is behind a corrupt record is looked at for the end of a transaction only.

        Raises:
            Malformed: TOO_LONG. Those bytes were not taken.
        """
        length = self._position + len(self._tail) + len(data)
        if length > self._bytes_max:
            raise Malformed(Reason.TOO_LONG, f"an accounting file of {length} bytes; at most {self._bytes_max}")
        if data.find(b"\n") < 0:
            self._tail += data
            return
        if self._tail:
            data = bytes(self._tail) + data
        end = data.rfind(b"\n") + 1
        self._tail = bytearray(data[end:])
        rest = 0
        if self._corrupt_at is None:
            rest = self._take(data, end)
            if rest < end:
                self._corrupt_at = self._position + rest
                # HTCondor reads on from the word that it could not take, which may be inside the line.
                line, rest = rest, _line_end(data, rest)
                self._fatal = b" 106" in data[line:rest]
        self._fatal = self._fatal or (rest < end and _ANY_END.search(data, rest, end) is not None)
        self._position += end

    def skip(self, length: int, records: int) -> None:
        """Take the next bytes for so many records, where all before is closed: who calls knows them to be whole."""
        self._position += length
        self._records += records
        self.closed_length, self.records = self._position, self._records

    def scan(self) -> Scan:
        """Return how far the file is good, as far as it was fed."""
        if self._corrupt_at is not None:
            stop, offset = Stop.CORRUPT, self._corrupt_at
        elif self._tail:
            stop, offset = Stop.TORN, self._position
        elif self._open_at is not None:
            stop, offset = Stop.OPEN, self._open_at
        else:
            stop, offset = Stop.END, self._position
        fatal = self._fatal or (stop is Stop.CORRUPT and _ANY_END.search(self._tail) is not None)
        return Scan(self.closed_length, self.records, self._sequence, self._birthdate, stop, offset, fatal)

    def _take(self, data: bytes, end: int) -> int:
        """Take the records of the lines of `data[:end]`; return where the first line begins that is none, or `end`."""
        position, records, open_at = 0, self._records, self._open_at
        closed, records_closed = self.closed_length - self._position, self.records
        match_at = RECORD.match
        is_literal = _LITERAL.fullmatch
        plain_at = _PLAIN_RECORDS.match
        while position < end:  # or what is no record
            while plain := plain_at(data, position, end):
                records += data.count(b"\n", position, plain.end())
                position = plain.end()
                if open_at is None:
                    closed, records_closed = position, records
            record = match_at(data, position)
            if record is None:
                break
            kind = record.lastgroup
            if kind == "value":
                value = record["value"]
                if not is_literal(value) and not _is_expression(value):
                    break
            elif kind == "begin":
                # HTCondor ignores a nested one
                open_at = self._position + position if open_at is None else open_at
            elif kind == "end":
                open_at = None
            elif kind == "birthdate":
                self._sequence, self._birthdate = int(record["sequence"]), int(record["birthdate"])
            position = record.end()
            records += 1
            if open_at is None:
                closed, records_closed = position, records
        self._records, self._open_at = records, open_at
        self.closed_length, self.records = self._position + closed, records_closed
        return position


def scan_untrusted(data: bytes, bytes_max: int | None = None) -> Scan:
    """Read `data` from its start up to what is not whole.

    Raises:
        Malformed: TOO_LONG, above `bytes_max` only, which is `FILE_BYTES_MAX` where it is not given.
    """
    scanner = Scanner(bytes_max)
    scanner.feed_untrusted(data)
    return scanner.scan()


def verify_untrusted(data: bytes) -> Scan:
    """Refuse what would stop a negotiator from starting; return the scan otherwise.

    Raises:
        Malformed: BAD_PAYLOAD, with the offset of a corrupt record that has the end of a transaction behind it;
            TOO_LONG.
    """
    scan = scan_untrusted(data)
    if scan.fatal:
        line = data[scan.stop_offset : _line_end(data, scan.stop_offset)][:80]
        raise Malformed(
            Reason.BAD_PAYLOAD,
            f"corrupt accounting record at byte {scan.stop_offset}, before the end of a transaction: {line!r}",
        )
    return scan


def read_untrusted(data: bytes) -> State:
    """Replay the closed part of `data`, as a negotiator would. Raises `Malformed` as `verify_untrusted`."""
    return replay_untrusted(data, verify_untrusted(data).closed_length)


def replay_untrusted(data: bytes, closed_length: int, alike: Records | None = None) -> State:
    """Replay what a scan of the same `data` has found to be closed: for callers that want the scan as well.

    Attributes have one spelling each, that of their first mention: HTCondor takes no notice of their case.

    Args:
        data: a file, or the head of one.
        closed_length: of a scan of it.
        alike: records of the files before, of which this one has most as well; those that are new are added. The states
            share such records: whoever changes one exchanges it for another. None: nothing is shared.
    """
    replay = Replay(alike)
    _replay(replay, data, 0, closed_length)
    return replay.state


def _replay(replay: Replay, data: bytes, position: int, end: int) -> None:
    while position < end:  # a piece of whole lines at a time
        after = data.rfind(b"\n", position, min(position + _PIECE_BYTES, end)) + 1
        after = after or data.index(b"\n", position, end) + 1
        replay.take(data[position:after])
        position = after


class Reading:
    """A file read at once: scanned, and replayed as far as that is as safe.

    An ad that has the bytes of one that was scanned before, or its names and plain literals for values, needs no scan
    of its own: half of the time. It does outside of transactions only.

    Args:
        data: the file.
        bytes_max: of it.
        alike: as of `replay_untrusted`.

    Attributes:
        scan: as of `scan_untrusted`.

    Raises:
        Malformed: TOO_LONG.
    """

    def __init__(self, data: bytes, bytes_max: int, alike: Records | None = None) -> None:
        self._data, self._alike = data, alike
        self._scanner = Scanner(bytes_max)
        self._replay = Replay(alike)
        self._position = self._scanned = 0  # what is replayed; what is scanned
        if len(data) <= bytes_max:
            while self._take_ads():
                pass
        self._scanner.feed_untrusted(data[self._scanned :])
        self.scan = self._scanner.scan()

    def state(self, closed_length: int) -> State:
        """Return what the file holds up to there: at most up to where the scan found it closed. To be called once."""
        if closed_length < self._position:
            return replay_untrusted(self._data, closed_length, self._alike)
        _replay(self._replay, self._data, self._position, closed_length)
        return self._replay.state

    def _take_ads(self) -> bool:
        """Take some ads, but never the last one; return whether that is to be tried again."""
        begin = self._position
        end = self._data.rfind(b"\n101 ", begin, begin + _PIECE_BYTES) + 1
        if end <= begin:
            return False
        piece = self._data[begin:end]
        if not piece.isascii():
            return self._take_lines(piece)
        first, *ads = f"\n{piece[:-1].decode()}".split("\n101 ")
        if first and not self._take_lines(f"{first[1:]}\n".encode()):
            return False
        for text in ads:
            records = self._replay.take_ad(text)
            if records:
                length = len(text) + len("101 \n")
                self._scanner.skip(length, records)
                self._position = self._scanned = self._position + length
            elif not self._take_lines(f"101 {text}\n".encode()):
                return False
        return True

    def _take_lines(self, lines: bytes) -> bool:
        """Take the next lines; return whether they are whole, and end outside of a transaction."""
        self._scanner.feed_untrusted(lines)
        self._scanned += len(lines)
        if self._scanner.closed_length < self._scanned:
            return False
        self._replay.take(lines)
        self._position = self._scanned
        return True


def _line_end(data: bytes, position: int) -> int:
    newline = data.find(b"\n", position)
    return len(data) if newline < 0 else newline + 1


class _Inside(enum.Enum):
    """What an expression stands in, with the token that ends it."""

    GROUP = b")"
    CALL = b") "  # told from GROUP by the blank
    SUBSCRIPT = b"]"
    RECORD = b"] "
    LIST = b"}"
    CONDITION = b":"


def _is_expression(value: bytes) -> bool:
    """Whether `value` has the shape of a ClassAd expression: operands and operators in turn, brackets in pairs.

    HTCondor parses it when it loads the file, and takes what does not parse for a corrupt record. This is a little
    stricter (no octal or hexadecimal numbers, no unit suffixes): the Accountant writes nothing but literals.
    """
    inside: list[_Inside] = []
    complete, kind, position = False, None, 0  # complete: an operator, a separator or the end may follow
    value = value.rstrip()
    while position < len(value):
        token = _TOKEN.match(value, position)
        if token is None:
            return False
        before, kind, position = kind, token.lastgroup, token.end()
        at_field = bool(inside) and inside[-1] is _Inside.RECORD and before in ("open", "semicolon")
        if at_field and kind not in ("field", "close"):
            return False
        match kind:
            case "field":
                fits, complete = at_field, False
            case "name" | "operand" | "prefix":
                fits, complete = not complete, kind != "prefix"
            case "select":
                fits, complete = True, True
            case "sign":
                fits, complete = True, False
            case "binary":
                fits, complete = complete, False
            case "open":
                context = _opened(token["open"], complete, before)
                fits, complete = context is not None, False
                if context is not None:
                    inside.append(context)
            case "close":
                fits = bool(inside) and inside[-1].value.strip() == token["close"]
                # Empty: f(), {} and []; a record may end with its last semicolon.
                fits = fits and (complete or (before == "open" and inside[-1] is not _Inside.GROUP) or at_field)
                fits = fits and (complete or inside[-1] is not _Inside.SUBSCRIPT)
                complete = True
                del inside[-1:]
            case "when":
                fits, complete = complete, False
                inside.append(_Inside.CONDITION)
            case "otherwise":
                fits, complete = complete and inside[-1:] == [_Inside.CONDITION], False
                del inside[-1:]
            case "comma":
                fits, complete = complete and inside[-1:] in ([_Inside.CALL], [_Inside.LIST]), False
            case _:
                fits, complete = complete and inside[-1:] == [_Inside.RECORD], False
        if not fits:
            return False
    return complete and not inside


def _opened(bracket: bytes, after_operand: bool, before: str | None) -> _Inside | None:
    """Return what a bracket begins there; None where it can't stand."""
    if bracket == b"(":
        if after_operand:
            return _Inside.CALL if before == "name" else None
        return _Inside.GROUP
    if bracket == b"[":
        return _Inside.SUBSCRIPT if after_operand else _Inside.RECORD
    return None if after_operand else _Inside.LIST
