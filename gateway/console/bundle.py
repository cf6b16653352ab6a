"""The support bundle: parts of what a host knows of itself, in one archive that may be sent away.

Rule: a part that fails is a line in the list of contents, never the end of the bundle; sizes and times are bounded;
what goes in has been through the redactor, without exception.
"""

import io
import os
import tarfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from gateway.console.redact import Redactor

PART_BYTES_MAX: Final = 2 << 20  # of a longer one, the end: the newest lines of a log
BUNDLE_BYTES_MAX: Final = 24 << 20  # before compression; what mail and issue trackers take afterwards
BUNDLE_S_MAX: Final = 90.0
_CUT: Final = "[the beginning was left out]\n"


class Unavailable(Exception):  # noqa: N818 (a condition of the host)
    """A part can't be had here; the sentence says why."""


class Part(msgspec.Struct, frozen=True):
    """One file of the bundle: its name, what it is, and how it is made (with a deadline of its own)."""

    name: str
    what: str
    make: Callable[[], str]


class Made(msgspec.Struct, frozen=True):
    """A part that was tried: its text, or why there is none."""

    part: Part
    text: str
    missing: str = ""


def collect(parts: Sequence[Part], redactor: Callable[[], Redactor]) -> list[Made]:
    """Make each part in turn. `redactor` is made first, and applied to everything."""
    redact = redactor().redact
    until = time.monotonic() + BUNDLE_S_MAX
    room = BUNDLE_BYTES_MAX
    made = []
    for part in parts:
        if time.monotonic() > until or room <= 0:
            reason = "no time was left" if room > 0 else "the bundle is full"
            made.append(Made(part, "", reason))
            continue
        try:
            # Cut after the redaction: a secret across the edge would not be known any more.
            text = redact(part.make())
        except Unavailable as error:
            made.append(Made(part, "", redact(str(error))))
            continue
        except Exception as error:  # noqa: BLE001 (whatever it is, the other parts are worth having)
            made.append(Made(part, "", redact(f"{type(error).__name__}: {error}")))
            continue
        if len(text) > PART_BYTES_MAX:
            text = _CUT + text[-PART_BYTES_MAX:]
        room -= len(text)
        made.append(Made(part, text))
    return made


def contents(made: Sequence[Made], head: str) -> str:
    """Return what is in the bundle, a line a part."""
    width = max((len(one.part.name) for one in made), default=0)
    lines = [head, ""]
    lines += [
        f"  {one.part.name:<{width}}  {one.part.what}" + (f": not here: {one.missing}" if one.missing else "")
        for one in made
    ]
    return "\n".join([*lines, "", "Keys, tokens and passwords were taken out of every part, and are in none.", ""])


def write_bundle(path: Path, made: Sequence[Made], listing: str, folder: str) -> int:
    """Write the archive, readable by its owner only; return its size in bytes.

    Raises:
        FileExistsError: something is there already.
        OSError: it can't be written; nothing is left behind.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
            _add(archive, f"{folder}/CONTENTS.txt", listing)
            for one in made:
                if not one.missing:
                    _add(archive, f"{folder}/{one.part.name}", one.text)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return path.stat().st_size


def _add(archive: tarfile.TarFile, name: str, text: str) -> None:
    data = text.encode(errors="replace")
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    entry.mtime = int(time.time())
    entry.mode = 0o600
    archive.addfile(entry, io.BytesIO(data))
