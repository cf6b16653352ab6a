"""What is seen of the address from the switch: every frame in its name, by host, and who answers for it.

Two processes where the switch is, for as long as a block runs; what they wrote is read afterwards.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import msgspec
import trio

from gateway.lab.errors import LabError
from gateway.lab.machines import asking
from gateway.lab.machines.contract import Pool
from gateway.lab.measure import capture

READY_S_MAX = 20.0
END_S_MAX = 10.0
LOOK_S = 0.1


class Frame(msgspec.Struct, frozen=True):
    """A host sent something in the name of the address: `kind` is "arp" (it announced or answered) or "ip"."""

    node: str
    kind: str
    at: float


class Reply(msgspec.Struct, frozen=True):
    """A MAC answered for the address."""

    mac: str
    at: float


def frames_of(text: str, nodes: Mapping[str, str]) -> list[Frame]:
    """Return what a capture wrote. `nodes`: port -> host."""
    fields = (line.split() for line in text.splitlines())
    return [Frame(nodes[one[0]], one[1], float(one[2])) for one in fields if len(one) == 3 and one[0] in nodes]


def replies_of(text: str) -> list[Reply]:
    """Return what the asker wrote; a line that it is just writing waits."""
    fields = (line.split() for line in text[: text.rfind("\n") + 1].splitlines())
    return [Reply(one[0], float(one[1])) for one in fields if len(one) == 2]


class Watch:
    """The address of one pool, watched during one scenario."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._asked = pool.folder / f"asked-{os.getpid()}.txt"
        self._log = pool.folder / "watch.log"
        self._capture: tuple[trio.Process, Path, dict[str, str]] | None = None
        self._frames: list[Frame] = []
        self._last: list[Reply] = []
        self.macs: dict[str, str] = {}  # of all hosts ever seen, MAC -> host

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator["Watch"]:
        """Watch while the block runs.

        Raises:
            LabError: one of the two could not be started.
        """
        asker: trio.Process | None = None
        try:
            asker = await self._start(asking.__name__, [self._pool.virtual_address, self._pool.wire, str(self._asked)])
            await self._begin()
            yield self
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 3 * END_S_MAX):
                await self._end_capture()
                if asker is not None:
                    await _end(asker)
                self._last = self.replies()
                self._asked.unlink(missing_ok=True)

    async def again(self) -> None:
        """Begin the capture anew: a host that was switched on again is on a port that was not there."""
        await self._end_capture()
        await self._begin()

    @property
    def frames(self) -> list[Frame]:
        """All that was captured, once the capture has ended or begun anew."""
        return self._frames

    def replies(self) -> list[Reply]:
        """Return all answers so far."""
        with contextlib.suppress(FileNotFoundError):
            return replies_of(self._asked.read_text())
        return self._last

    async def answered(self, count: int, within_s: float) -> list[Reply]:
        """Wait for `count` more answers; return those that came."""
        since, limit = time.time(), time.time() + within_s
        while True:  # ends with the answers, or at the limit
            found = [one for one in self.replies() if one.at >= since]
            if len(found) >= count or time.time() >= limit:
                return found
            await trio.sleep(LOOK_S)

    async def _begin(self) -> None:
        ports = await self._pool.ports()
        self.macs |= {port.mac: port.node for port in ports}
        file = self._pool.folder / f"capture-{os.getpid()}.txt"
        argv = [self._pool.virtual_address, str(file), *(port.name for port in ports)]
        running = await self._start(capture.__name__, argv)
        self._capture = running, file, {port.name: port.node for port in ports}

    async def _end_capture(self) -> None:
        if self._capture is None:
            return
        (running, file, nodes), self._capture = self._capture, None
        await _end(running)
        try:
            self._frames += frames_of(file.read_text(), nodes)
        except FileNotFoundError as error:
            raise LabError(f"the capture died: see {str(self._log)!r}") from error
        file.unlink()

    async def _start(self, module: str, argv: Sequence[str]) -> trio.Process:
        """Start one of the two and wait until it is ready."""
        line = [*self._pool.entering, sys.executable, "-P", "-m", module, *argv]
        with self._log.open("ab") as log:
            running = await trio.lowlevel.open_process(
                line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
            )
        assert running.stdout is not None, "its output is a pipe"
        said: bytes | bytearray = b""
        with trio.move_on_after(READY_S_MAX):
            said = await running.stdout.receive_some(64)
        if said.decode().strip() != asking.READY:
            running.kill()
            raise LabError(f"{module} did not begin: see {str(self._log)!r}")
        return running


async def _end(running: trio.Process) -> None:
    running.send_signal(signal.SIGTERM)
    with trio.move_on_after(END_S_MAX):
        await running.wait()
    if running.returncode is None:
        running.kill()
        await running.wait()
