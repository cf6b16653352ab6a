"""A real console process, and a scripted node behind it: a thread that answers what the test has put down."""

import contextlib
import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import urlencode

import msgspec
import trio

from gateway.config.settings import Console, Endpoint, LogFormat
from gateway.console.child import Charge
from gateway.console.multiplex import serve_multiplexed
from gateway.control.commands import CommandRefused, Commands, Level

START_S_MAX = 30
FORM = "application/x-www-form-urlencoded"


class Answer(NamedTuple):
    """What HTTP has answered."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


class ScriptedNode:
    """Answers a console as control would. `orders` is what it was ordered, `refuses` what it will refuse."""

    def __init__(
        self, document: dict[str, Any], changes: list[dict[str, Any]], peers: dict[str, Any] | None = None
    ) -> None:
        self.document: dict[str, Any] | None = document
        self.peers = peers or {}
        self.peers_hang = False
        self.changes = changes
        self.asked = 0
        self.orders: list[dict[str, Any]] = []
        self.refuses: str | None = None
        self.end, self._own_end = socket.socketpair()
        self._news: trio.MemorySendChannel[dict[str, Any]] | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._run,), daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    async def _run(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._scope = trio.CancelScope()
        commands = Commands()
        commands.add("status", self._status, Level.USER)
        commands.add("history", lambda request: {"changes": self.changes}, Level.USER)
        commands.add("peers", self._peers, Level.USER)
        commands.add("events", self._events, Level.USER)
        for name in ("switchover", "pause", "resume", "drain", "undrain"):
            commands.add(name, self._obey)
        self._ready.set()
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(self._own_end))
        with self._scope:
            await serve_multiplexed(stream, commands, Level.ADMIN)

    async def _status(self, request: dict[str, Any]) -> dict[str, Any]:
        self.asked += 1
        if self.document is None:
            await trio.sleep_forever()
        return self.document or {}

    async def _peers(self, request: dict[str, Any]) -> dict[str, Any]:
        if self.peers_hang:
            await trio.sleep_forever()
        return self.peers if request["request"]["command"] == "status" else {}

    async def _events(self, request: dict[str, Any]) -> Any:
        sending, receiving = trio.open_memory_channel[dict[str, Any]](100)
        self._news = sending
        return receiving

    def _obey(self, request: dict[str, Any]) -> dict[str, Any]:
        if self.refuses is not None:
            raise CommandRefused(self.refuses)
        self.orders.append(request)
        return {"gap_ms": 12} if request["command"] == "switchover" else {"version": 1}

    def tell(self, event: dict[str, Any]) -> None:
        """Let something happen."""
        until = time.monotonic() + 10
        while self._news is None:
            assert time.monotonic() < until, "the console does not follow the events"
            time.sleep(0.01)
        assert self._token is not None
        trio.from_thread.run_sync(self._news.send_nowait, event, trio_token=self._token)

    def close(self) -> None:
        assert self._token is not None
        with contextlib.suppress(trio.RunFinishedError):
            trio.from_thread.run_sync(self._scope.cancel, trio_token=self._token)
        self._thread.join(10)


class ConsoleProcess:
    """The process. `port` is its own."""

    def __init__(self, node: ScriptedNode, folder: Path, console: Console) -> None:
        self.node = node
        with socket.create_server((console.bind.host, 0)) as free:
            self.port = free.getsockname()[1]
        bind = Endpoint(console.bind.host, self.port)
        charge = Charge(
            cluster="lab",
            node="gw1",
            log=LogFormat.JSON,
            console=msgspec.structs.replace(console, bind=bind),
            stats_sockets=(),
        )
        self.log = folder / "console.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "gateway.console.process", msgspec.json.encode(charge).decode(),
                 str(node.end.fileno())],
                pass_fds=(node.end.fileno(),), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        node.end.close()
        self._wait()

    def _wait(self) -> None:
        until = time.monotonic() + START_S_MAX
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.get("/page.css").status == 200:
                    return
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < until, self.log.read_text()
            time.sleep(0.05)

    def request(self, method: str, path: str, body: str | None = None, **headers: str) -> Answer:
        """Ask once; underscores in the names of headers are dashes. A Host is said unless it is given."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with contextlib.closing(connection):
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            found = connection.getresponse()
            said = {name.lower(): value for name, value in found.getheaders()}
            return Answer(found.status, said, found.read().decode())

    def get(self, path: str, **headers: str) -> Answer:
        return self.request("GET", path, **headers)

    def post(self, path: str, form: dict[str, str], **headers: str) -> Answer:
        """Post a form, as a page of this console would unless the headers say otherwise."""
        origin = {"Origin": f"http://127.0.0.1:{self.port}", "Content_Type": FORM}
        return self.request("POST", path, urlencode(form), **(origin | headers))

    @contextlib.contextmanager
    def stream(self, path: str) -> Iterator["Stream"]:
        """Follow a stream of events."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with contextlib.closing(connection):
            connection.request("GET", path)
            yield Stream(connection.getresponse())

    def close(self) -> None:
        self.node.close()
        try:
            self.process.wait(10)
        finally:
            self.process.kill()
            self.process.wait(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Stream:
    """Server-sent events as they come."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self._response = response

    def next(self, name: str) -> Any:
        """Return the data of the next event of that name."""
        event = ""
        while True:  # ends with the time limit of the connection
            line = self._response.readline().decode()
            assert line, "the stream has ended"
            word, _, rest = line.rstrip("\n").partition(": ")
            event = rest if word == "event" else event
            if word == "data" and event == name:
                return json.loads(rest)
