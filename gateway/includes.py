"""Included files: opens what a configuration's `include` names, for the language, which opens nothing itself.

Rule: regular files of a size that a configuration can have; a device or a pipe would be waited for without end.
"""

import glob
import os
import stat
from pathlib import Path

from gateway.config import Unreadable
from gateway.config.limits import INCLUDED_FILES_MAX, TEXT_CHARACTERS_MAX
from gateway.config.sources import PATTERN_CHARACTERS

BYTES_MAX = 4 * TEXT_CHARACTERS_MAX  # UTF-8 has four bytes a character at most


def read_included(path: str) -> tuple[tuple[str, str], ...]:
    """Return the name and text of a file, or of all that match a pattern, in the order of their names.

    Raises:
        Unreadable: one can't be read.
    """
    if not PATTERN_CHARACTERS & {*path}:
        return ((path, _read(path)),)
    found = sorted(glob.glob(path))
    if len(found) > INCLUDED_FILES_MAX:
        raise Unreadable(f"matches more than {INCLUDED_FILES_MAX} files")
    return tuple((name, _read(name)) for name in found)


def _read(name: str) -> str:
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise Unreadable(f"is no regular file ({Path(name)})")
        with open(descriptor, "rb") as file:
            data = file.read(BYTES_MAX + 1)
    except FileNotFoundError:
        raise Unreadable(f"does not exist ({Path(name)}): a path is relative to the file that includes it") from None
    except OSError as error:
        raise Unreadable(f"cannot be read ({Path(name)}): {error.strerror}") from None
    if len(data) > BYTES_MAX:
        raise Unreadable(f"is longer than a configuration can be ({Path(name)})")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise Unreadable(f"is not UTF-8 text ({Path(name)})") from None
