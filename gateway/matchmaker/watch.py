"""Watch: the leader's accounting file, each time that it has changed.

Rule: only a closed prefix is shown. The negotiator appends; a compaction is a new file under the same name.
"""

import contextlib
import hashlib
import os
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Final, Protocol

import msgspec
import structlog
import trio

from gateway.wire.accountant import FILE_BYTES_MAX, Scan, Stop, scan_untrusted
from gateway.wire.errors import Malformed
from gateway.wire.replica import Kind, Replica

# From the first write to the look: a transaction is several, and a change is to be on every standby's disk within 1 s.
WATCH_INTERVAL_MS: Final = 200
LOOK_MS_MAX: Final = 5_000  # looked at so often even where nothing is said to have changed

log = structlog.get_logger()


class Change(msgspec.Struct, frozen=True):
    """The accounting file as it was a moment ago: its closed prefix."""

    generation: int
    data: bytes
    sha256: bytes
    scan: Scan

    def replica(self, origin: str, term: int) -> Replica:
        """Return it as what the leader `origin` of `term` ships."""
        return Replica(
            kind=Kind.ACCOUNTING,
            origin=origin,
            term=term,
            generation=self.generation,
            sha256=self.sha256,
            data=self.data,
        )


class Writes(Protocol):
    """Says when a file is written to."""

    lost: bool  # it will not say so any more

    async def changed(self) -> None:
        """Wait until the file may have changed since the last call."""

    def close(self) -> None:
        """Watch no longer."""


async def watch(
    path: Path | str,
    *,
    interval_ms: int = WATCH_INTERVAL_MS,
    generation: int = 0,
    watch_writes: Callable[[str], Writes] | None = None,
) -> AsyncGenerator[Change, None]:
    """Yield the leader's accounting file now, and again whenever its closed prefix has changed; for ever.

    A file that is not there yet, or that is corrupt before the end of a transaction, yields nothing (the latter with a
    log event): a standby's good replica is not to be replaced by the rest of a bad file. Use it in
    `contextlib.aclosing`.

    Args:
        path: `Accountantnew.log`.
        interval_ms: between two looks, at least.
        watch_writes: as `gateway.kernel.inotify.FileWatch`; without it the file is looked at all the time.
        generation: of the last change known in this term; the first one yielded is one more.
    """
    seen: _Identity | None = None
    shown = b""
    complained = False
    with contextlib.closing(_Pause(str(path), interval_ms, watch_writes)) as pause:
        while True:  # ends with the caller's interest
            pause.begin()  # before the look: what is written meanwhile ends the pause
            look = await trio.to_thread.run_sync(_look, Path(path), seen, abandon_on_cancel=True)
            if look is not None:
                seen = look.identity
                if look.fault:
                    if not complained:
                        log.error("accounting.unfit", path=str(path), fault=look.fault)
                    complained = True
                elif look.sha256 != shown and look.scan is not None:
                    shown, complained = look.sha256, False
                    generation += 1
                    yield Change(generation, look.data, look.sha256, look.scan)
            await pause.end()


class _Pause:
    """The time between two looks: until something is written, then the interval; that alone where nobody can say."""

    def __init__(self, path: str, interval_ms: int, watch_writes: Callable[[str], Writes] | None) -> None:
        self._path = path
        self._interval_ms = interval_ms
        self._watch_writes = watch_writes
        self._written: Writes | None = None

    def begin(self) -> None:
        if self._watch_writes is not None and (self._written is None or self._written.lost):
            self.close()
            with contextlib.suppress(OSError):  # no folder yet, or no inotify left
                self._written = self._watch_writes(self._path)

    async def end(self) -> None:
        if self._written is not None:
            with trio.move_on_after(LOOK_MS_MAX / 1000):
                await self._written.changed()
        await trio.sleep(self._interval_ms / 1000)

    def close(self) -> None:
        if self._written is not None:
            self._written.close()
            self._written = None


_Identity = tuple[int, int, int]  # inode, size, time of the last write in ns


class _Look(msgspec.Struct, frozen=True):
    identity: _Identity
    data: bytes = b""
    sha256: bytes = b""
    scan: Scan | None = None
    fault: str = ""


def _look(path: Path, seen: _Identity | None) -> _Look | None:
    """Read the file; None where it is as `seen`, or not there."""
    try:
        status = os.stat(path)
        # Before the read: what is written meanwhile is seen at the next look.
        identity = (status.st_ino, status.st_size, status.st_mtime_ns)
        if identity == seen:
            return None
        with open(path, "rb") as opened:
            file = opened.read(FILE_BYTES_MAX + 1)  # one too many is refused by the scan
    except FileNotFoundError:
        return None
    except OSError as error:
        return _Look((0, 0, 0), fault=error.strerror or str(error))
    try:
        scan = scan_untrusted(file)
    except Malformed as fault:
        return _Look(identity, fault=str(fault))
    if scan.stop is Stop.CORRUPT:
        return _Look(identity, fault=f"corrupt record at byte {scan.stop_offset}")
    data = file[: scan.closed_length]
    return _Look(identity, data, hashlib.sha256(data).digest(), scan)
