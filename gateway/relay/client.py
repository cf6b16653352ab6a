"""The relay as control sees it: a process that is told what to do, and replaced when it dies.

Rule: nothing here blocks control. Orders are wishes: the last one of each kind is what a new process is told as well.
"""

import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Protocol

import msgspec
import trio

from gateway.config.settings import Endpoint
from gateway.relay.messages import (
    MESSAGE_BYTES_MAX,
    Answer,
    Configure,
    Listener,
    ListSessions,
    Order,
    Report,
    Route,
    Shutdown,
)

BACK_OFF_MS_MIN = 20
BACK_OFF_MS_MAX = 800  # with the start of Python itself a dead relay is back within a second or so
STEADY_MS = 5_000  # a relay that lived this long begins the back-off anew
SILENCE_MS_MAX = 10_000  # ten reports missed: it is stuck for good, a new one serves sooner
# To its first words. Python starts in 0.3 s, but took longer than 10 s in guests without hardware virtualisation that
# had too little processor: who kills it then and starts another one never has a relay.
FIRST_MS_MAX = 60_000
END_MS_MAX = 1_000  # for a killed process to be gone; a thread goes on waiting for it
EVENTS_WAITING_MAX = 1_000  # the oldest go first: who reads this late needs the last ones


class RelayStarted(msgspec.Struct, frozen=True, kw_only=True):
    """A relay process has been started and told everything."""

    pid: int


class RelayDied(msgspec.Struct, frozen=True, kw_only=True):
    """The relay process has ended, and its connections with it; the next one starts in `restart_ms`.

    `status` is as in `subprocess`: negative for a signal. `reason` is set where it could not be started at all.
    """

    status: int
    reason: str = ""
    restart_ms: int


RelayEvent = Answer | RelayStarted | RelayDied


class RelayProcess(Protocol):
    """One relay process, whoever's child it is."""

    started: trio.Event  # or failed to
    ended: trio.Event
    scope: trio.CancelScope  # of `live`; shielded: nobody else's cancellation may leave the process behind
    status: int
    reason: str  # why it could not be started

    @property
    def pid(self) -> int | None:
        """Its number; None where it could not be started."""

    async def live(self) -> None:
        """Start the process where that is not done yet, and wait for its end."""

    def kill(self) -> None:
        """End the process now; the kernel closes its connections."""


class Relay:
    """One relay process and its successors.

    `events` gives what happens, apart from the reports, whose last one is `latest_report` (None until the first).
    Give it to `run_relay`, or use `open_relay`.

    Args:
        spawn: starts a process on the end of the socket pair that it is given; a child of our own by default.
        on_report: told of each report, once a second.
    """

    def __init__(
        self,
        spawn: Callable[[socket.socket], RelayProcess] | None = None,
        on_report: Callable[[Report], None] | None = None,
    ) -> None:
        self._spawn = spawn or OwnChild
        self._on_report = on_report
        self.events: trio.MemoryReceiveChannel[RelayEvent]
        self._events_in: trio.MemorySendChannel[RelayEvent]
        self._events_in, self.events = trio.open_memory_channel[RelayEvent](EVENTS_WAITING_MAX)
        self.latest_report: Report | None = None
        self.pid: int | None = None  # of the process that runs now
        self._configuration: Configure | None = None
        self._routes: dict[str, Route] = {}
        self._told: dict[str, int] = {}  # route -> epoch that the present process was told last
        self._socket: socket.socket | None = None
        # Orders that the socket had no room for; a newer one for the same thing replaces the older.
        self._unsent: dict[str, Order] = {}
        self._room_wanted = trio.Event()
        self._adopted: tuple[socket.socket, RelayProcess] | None = None
        self._keeping = False
        self._decoder: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)

    def configure(self, listeners: Iterable[Listener]) -> None:
        """Let the relay listen on exactly these; unchanged ones keep their clients.

        Raises `ValueError` where the set does not fit into one message.
        """
        self._configuration = Configure(listeners=tuple(listeners))
        size = len(msgspec.msgpack.encode(self._configuration))
        if size > MESSAGE_BYTES_MAX:
            raise ValueError(f"listeners take {size} bytes; the relay reads at most {MESSAGE_BYTES_MAX}")
        self._send("configure", self._configuration)

    def route(self, route: str, server: Endpoint | None, epoch: int, drain_ms: int = 0) -> None:
        """Send the clients of `route` to `server`, or hold them (None); see `messages.Route` for the rest.

        Raises `ValueError` where `epoch` is less than the last: an old decision must not undo a newer one.
        """
        last = self._routes.get(route)
        if last is not None and epoch < last.epoch:
            raise ValueError(f"route '{route}': epoch {epoch} is older than {last.epoch}")
        order = Route(
            route=route,
            server_host=server.host if server else None,
            server_port=server.port if server else 0,
            epoch=epoch,
            drain_ms=drain_ms,
        )
        unsent = self._unsent.get(f"route {route}")
        if isinstance(unsent, Route) and self._told.get(route, 0) < unsent.epoch < epoch:
            # A switch that this one overtakes on its way: what that one ends at once is not to go on now.
            order = msgspec.structs.replace(order, drain_ms=min(drain_ms, unsent.drain_ms))
        self._routes[route] = order
        self._send(f"route {route}", order)

    def ask(self, key: str, question: ListSessions | Shutdown) -> None:
        """Ask the present process, if there is one; the answer comes by `events`. Another one is not asked anew."""
        self._send(key, question)

    def _send(self, key: str, order: Order) -> None:
        if self._socket is None:
            return  # the next process is told all of it at its start
        self._unsent.pop(key, None)
        self._unsent[key] = order
        self._send_unsent()

    def _send_unsent(self) -> None:
        assert self._socket is not None
        while self._unsent:
            key = next(iter(self._unsent))
            try:
                self._socket.send(msgspec.msgpack.encode(self._unsent[key]), socket.MSG_DONTWAIT)
            except BlockingIOError:
                self._room_wanted.set()
                return
            except OSError:
                self._unsent.clear()  # it has died: the next one is told everything
                return
            order = self._unsent.pop(key)
            if isinstance(order, Route):
                self._told[order.route] = order.epoch

    def note_death(self, event: RelayDied) -> None:
        """Say that the process has ended."""
        self._tell(event)

    def _tell(self, event: RelayEvent) -> None:
        try:
            self._events_in.send_nowait(event)
        except trio.WouldBlock:
            self.events.receive_nowait()
            self._events_in.send_nowait(event)

    # --- from one control process to the next

    def let_go(self) -> int | None:
        """Leave the process running when `run_relay` ends; return a copy of our end of its socket, None for none."""
        self._keeping = True
        return None if self._socket is None else os.dup(self._socket.fileno())

    def adopt(self, ours: socket.socket, process: RelayProcess) -> None:
        """Let the first process be one that a control process before us has let go."""
        ours.setblocking(False)
        self._adopted = ours, process

    # --- one process

    async def run_once(self, on_start: Callable[[], None]) -> tuple[int, str]:
        """Run one process to its end; return its status, and the reason where it could not be started."""
        # One that is adopted has said its first words to whoever had it before.
        silence_ms_max = SILENCE_MS_MAX if self._adopted else FIRST_MS_MAX
        ours, child = self._adopted or self._start()
        self._adopted = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child.live)
            try:
                await child.started.wait()
                if child.pid is not None:
                    self.pid = child.pid
                    self._socket = ours
                    self._tell_everything()
                    self._tell(RelayStarted(pid=self.pid))
                    on_start()
                    nursery.start_soon(self._send_late, ours)
                    await self._read_answers(ours, silence_ms_max)  # until it closes its end, or is silent for too long
            finally:
                self._socket = self.pid = None
                ours.close()  # it ends by this, or else by SIGKILL; a copy elsewhere keeps it
                if not self._keeping:
                    child.kill()
                    with trio.move_on_after(END_MS_MAX / 1000, shield=True):
                        await child.ended.wait()
                child.scope.cancel()
                nursery.cancel_scope.cancel()
        return child.status, child.reason

    def _start(self) -> tuple[socket.socket, RelayProcess]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        return ours, self._spawn(theirs)

    def _tell_everything(self) -> None:
        # Routes first: its listeners know their server when they open, and nobody is held for nothing.
        self._told.clear()
        self._unsent = {f"route {name}": order for name, order in self._routes.items()}
        if self._configuration is not None:
            self._unsent["configure"] = self._configuration
        self._send_unsent()

    async def _send_late(self, ours: socket.socket) -> None:
        """Send what the socket had no room for; ends by cancellation."""
        while True:
            await self._room_wanted.wait()
            self._room_wanted = trio.Event()
            await trio.lowlevel.wait_writable(ours)
            self._send_unsent()

    async def _read_answers(self, ours: socket.socket, silence_ms_max: int) -> None:
        """Read until the process has closed its end, or has been silent for too long: at first for `silence_ms_max`."""
        while True:
            with trio.move_on_after(silence_ms_max / 1000) as silence:
                await trio.lowlevel.wait_readable(ours)
            if silence.cancelled_caught:
                return
            silence_ms_max = SILENCE_MS_MAX
            try:
                data = ours.recv(MESSAGE_BYTES_MAX + 1)
            except BlockingIOError:
                continue
            except ConnectionResetError:
                return
            if not data:
                return
            answer = self._decoder.decode(data)
            if isinstance(answer, Report):
                self.latest_report = answer
                if self._on_report is not None:
                    self._on_report(answer)
            else:
                self._tell(answer)


class OwnChild:
    """A relay that is this process' child, started and awaited by one thread that lives as long as it does.

    The kernel's parent-death signal is about the *thread* that forked (prctl(2)): with trio's own `open_process`
    that is a worker thread, which ends after ten idle seconds and would take the relay along.
    """

    def __init__(self, control_end: socket.socket) -> None:
        self._control_end = control_end
        self.process: subprocess.Popen[bytes] | None = None
        self.started = trio.Event()  # or failed to
        self.ended = trio.Event()
        self.scope = trio.CancelScope(shield=True)
        self.status = 0
        self.reason = ""

    @property
    def pid(self) -> int | None:
        """Its number, None where it could not be started."""
        return self.process.pid if self.process is not None else None

    async def live(self) -> None:
        """Start the process and wait for its end."""
        token = trio.lowlevel.current_trio_token()
        with self.scope:
            try:
                self.status = await trio.to_thread.run_sync(
                    self._live_in_thread, token, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1)
                )
            except OSError as error:  # EAGAIN, ENOMEM
                self.status, self.reason = 127, str(error)
        self.started.set()
        self.ended.set()

    def _live_in_thread(self, token: trio.lowlevel.TrioToken) -> int:
        with self._control_end as end:
            process = subprocess.Popen(
                # -P: never import from the directory in which root happened to start us.
                [sys.executable, "-P", "-m", "gateway.relay", str(end.fileno())],
                pass_fds=(end.fileno(),),
                stdin=subprocess.DEVNULL,
            )
        self.process = process
        with suppress(trio.RunFinishedError):  # nobody waits any more: the process ends by its socket
            token.run_sync_soon(self.started.set)
        return process.wait()

    def kill(self) -> None:
        """End the process now; the kernel closes its connections."""
        if self.process is not None:
            self.process.kill()  # does nothing where it has been waited for


async def run_relay(relay: Relay, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Keep a relay process running until cancelled; started when the first one has been told everything.

    A process that dies is replaced, after a delay that doubles as long as they die young.
    """
    back_off_ms = BACK_OFF_MS_MIN
    starts = 0

    def on_start() -> None:
        nonlocal starts
        starts += 1
        if starts == 1:
            task_status.started()

    while True:  # ends by cancellation
        began = trio.current_time()
        status, reason = await relay.run_once(on_start)
        if (trio.current_time() - began) * 1000 >= STEADY_MS:
            back_off_ms = BACK_OFF_MS_MIN
        relay.note_death(RelayDied(status=status, reason=reason, restart_ms=back_off_ms))
        await trio.sleep(back_off_ms / 1000)
        back_off_ms = min(2 * back_off_ms, BACK_OFF_MS_MAX)


@asynccontextmanager
async def open_relay() -> AsyncIterator[Relay]:
    """Give a relay whose process runs until the end of the block."""
    relay = Relay()
    async with trio.open_nursery() as nursery:
        await nursery.start(run_relay, relay)
        yield relay
        nursery.cancel_scope.cancel()
