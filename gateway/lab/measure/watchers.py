"""The two processes that watch an address on a segment, started before a fault and read after it."""

import contextlib
import signal
import subprocess
import sys
from collections.abc import AsyncIterator

import trio

from gateway.lab.errors import LabError
from gateway.lab.measure import capture, pulse, sightings
from gateway.lab.network import NAMESPACES
from gateway.lab.segment import BYSTANDER, CLIENT, DEVICE, GATEWAYS, Host, Segment
from gateway.lab.topology import SWITCH, VIRTUAL_ADDRESS

READY_S_MAX = 15.0
END_S_MAX = 15.0


class Watchers:
    """The pulse of a client and the capture on the switch, for one repeat."""

    def __init__(self, segment: Segment, port: int) -> None:
        self._segment = segment
        self._port = port
        self._pulse_file = segment.folder / "pulse.txt"
        self._capture_file = segment.folder / "capture.txt"
        self._log = segment.folder / "watchers.log"
        self._pulse: subprocess.Popen[bytes] | None = None

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Watch while the block runs. When it is left, both files are whole.

        Raises:
            LabError: a watcher could not be started, or did not end.
        """
        for file in (self._pulse_file, self._capture_file):
            file.unlink(missing_ok=True)
        module = [sys.executable, "-P", "-m"]
        recording = self._segment.start(
            SWITCH,
            [*module, capture.__name__, VIRTUAL_ADDRESS, str(self._capture_file), *GATEWAYS],
            self._log,
            pipe=True,
        )
        probing: subprocess.Popen[bytes] | None = None
        try:
            if not await _said(recording, capture.READY, READY_S_MAX):
                raise LabError(f"the capture did not begin: see {str(self._log)!r}")
            bystander = str(NAMESPACES / self._segment.namespace(BYSTANDER))
            macs = [Host(name).mac for name in GATEWAYS]
            argv = [VIRTUAL_ADDRESS, str(self._port), DEVICE, str(self._pulse_file), bystander, *macs]
            probing = self._segment.start(CLIENT, [*module, pulse.__name__, *argv], self._log, pipe=True)
            self._pulse = probing
            yield
        finally:
            with trio.CancelScope(shield=True):
                for child in (probing, recording):
                    if child is not None:
                        await _end(child)

    async def steady(self, within_s: float) -> bool:
        """Wait until probes of every kind are answered in a row; False: they are not in time."""
        assert self._pulse is not None, "the pulse was started"
        return await _said(self._pulse, pulse.STEADY, within_s)

    def seen(self) -> sightings.Sightings:
        """Return what was recorded; blocks while it is read.

        Raises:
            LabError: a watcher died before it had written its file.
        """
        try:
            return sightings.read(self._pulse_file.read_text(), self._capture_file.read_text())
        except FileNotFoundError as error:
            raise LabError(f"a watcher died: see {str(self._log)!r}") from error


async def _said(child: "subprocess.Popen[bytes]", word: str, within_s: float) -> bool:
    """Wait for a line on the standard output of `child`; False: another one, its end, or nothing in time."""
    assert child.stdout is not None, "its output is a pipe"
    with trio.move_on_after(within_s):
        await trio.lowlevel.wait_readable(child.stdout)
        return child.stdout.readline().decode().strip() == word
    return False


async def _end(child: "subprocess.Popen[bytes]") -> None:
    child.send_signal(signal.SIGTERM)
    try:
        await trio.to_thread.run_sync(child.wait, END_S_MAX)
    except subprocess.TimeoutExpired:
        child.kill()
        await trio.to_thread.run_sync(child.wait)
    if child.stdout is not None:
        child.stdout.close()
