"""HTCondor's accounting file of a leadership that is over: which file of which history it is. Waits for the disk.

Rule: a file is known by its inode and by the sequence number of its first record, never by one of them alone.
"""

import errno
import os
import re
from pathlib import Path
from typing import Final

from gateway.core.timeline import Position
from gateway.matchmaker.disk import digest_of
from gateway.matchmaker.lead import Lead

_HEADER: Final = re.compile(rb"107 (\d{1,19}) ")  # src/condor_utils/classad_log.cpp, LogHistoricalSequenceNumber
_HEADER_BYTES_MAX: Final = 64


def as_it_was(lead: Lead, path: Path) -> Lead:
    """Return the lead as it is after a crash in the middle of a merge: before or after the exchange of files."""
    if not lead.merging or lead.merging_timeline is None:
        return lead
    timeline = lead.merging_timeline if digest_of(path) == lead.merging else lead.timeline
    return Lead(timeline=timeline, inode=lead.inode, sequence=lead.sequence)


def as_it_is(lead: Lead, path: Path) -> Lead:
    """Return the lead with the generation that the file has now.

    Raises:
        FileNotFoundError: it is not there, or empty.
        OSError: it can't be read.
    """
    head = lead.timeline.head
    inode, sequence = identity(path)
    # An inode's number is soon used again; the number of a compaction never is.
    generation = head.generation if (inode, sequence) == (lead.inode, lead.sequence) else head.generation + 1
    timeline = lead.timeline.at(Position(head.term, generation, 0))
    return Lead(timeline=timeline, inode=inode, sequence=sequence)


def identity(path: Path) -> tuple[int, int]:
    """Return inode and sequence number; the latter is 0 where the first record has none. Raises as `as_it_is`."""
    with open(path, "rb") as file:
        beginning = file.read(_HEADER_BYTES_MAX)
        if not beginning:
            raise FileNotFoundError(errno.ENOENT, "it is empty")
        found = _HEADER.match(beginning)
        return os.fstat(file.fileno()).st_ino, int(found[1]) if found else 0


def written_s(path: Path) -> int:
    """Return when the file was last written to: its negotiator lived until then at least; 0 where there is none."""
    try:
        return int(os.stat(path).st_mtime)
    except FileNotFoundError:
        return 0
