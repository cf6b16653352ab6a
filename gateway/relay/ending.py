"""Endings: how a connection ended, and the line that HAProxy's tcplog has for it. Makes text; writes nothing.

Rule: two letters say all, as in HAProxy: who or what ended it, and how far it had come; `--` is the normal end.
"""

import enum
import time
from typing import NamedTuple

import msgspec

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")  # in every locale


class By(enum.StrEnum):
    """Who or what ended a connection: the first of the two letters."""

    NOBODY = "-"  # both sides had said everything
    CLIENT = "C"  # reset, or gone before it was served
    SERVER = "S"  # reset, or nobody took the connection
    CLIENT_TIME = "c"  # `timeout client-hello`, `timeout client`
    SERVER_TIME = "s"  # `timeout queue`: no server came in time
    LIMIT = "P"  # the relay: a limit, or made room
    RESOURCE = "R"  # the relay: no port or privilege for the client's address
    SWITCH = "D"  # another server was elected
    OPERATOR = "K"  # closed by an operator, or the configuration names the listener no more


class State(enum.Enum):
    """Where a connection stands; the value is the second of the two letters."""

    SILENT = "R"
    HELD = "Q"
    CONNECTING = "C"
    OPEN = "D"
    CLOSED = "-"


class Course(msgspec.Struct):
    """When a connection came to what, for its line: seconds of the monotonic clock; 0: not yet."""

    began_at: float
    connecting_at: float = 0.0  # to the server that it was with at last
    opened_at: float = 0.0
    connects: int = 0


class Ending(NamedTuple):
    """What is said of an ended connection. Times in milliseconds, -1: it did not come so far."""

    client: tuple[str, int]
    ended_s: float  # of the wall clock
    frontend: str
    backend: str
    server: str  # "<NOSRV>": none
    waited_ms: int  # Tw: until the connect to its server began; its own first word, and an election, are in it
    connect_ms: int  # Tc
    total_ms: int  # Tt
    bytes_to_client: int
    bytes_to_server: int
    by: By
    state: State
    connections: tuple[int, int, int, int, int]  # of the process, frontend, backend and server; retries
    held: int  # in the backend's queue


def place(host: str, port: int) -> str:
    """Return an address and port in one word."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def times(course: Course, now: float) -> tuple[int, int, int]:
    """Return Tw, Tc and Tt in milliseconds."""
    waited = -1 if not course.connecting_at else _ms(course.connecting_at - course.began_at)
    connected = -1 if not course.opened_at else _ms(course.opened_at - course.connecting_at)
    return waited, connected, _ms(now - course.began_at)


def text(ending: Ending) -> str:
    """Return the line of HAProxy's `option tcplog` (its manual, section 8.2.2).

    `%ci:%cp [%t] %ft %b/%s %Tw/%Tc/%Tt %B %ts %ac/%fc/%bc/%sc/%rc %sq/%bq`; `%t` is when it was accepted, `%sq` is 0:
    who waits, waits for any server.
    """
    accepted_s = ending.ended_s - ending.total_ms / 1000
    at = time.localtime(accepted_s)
    date = f"{at.tm_mday:02}/{_MONTHS[at.tm_mon - 1]}/{at.tm_year}:{at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02}"
    host, port = ending.client
    return (
        f"{host}:{port} [{date}.{int(accepted_s * 1000) % 1000:03}] {ending.frontend} {ending.backend}/{ending.server} "
        f"{ending.waited_ms}/{ending.connect_ms}/{ending.total_ms} {ending.bytes_to_client} {letters(ending)} "
        f"{'/'.join(map(str, ending.connections))} 0/{ending.held}"
    )


def letters(ending: Ending) -> str:
    """Return the two letters."""
    return "--" if ending.by is By.NOBODY else ending.by.value + ending.state.value


def event(ending: Ending, node: str) -> bytes:
    """Return the same as one JSON object, as the events of the node are; `line` is the text."""
    names = ("connections", "frontend_connections", "backend_connections", "server_connections", "retries")
    return msgspec.json.encode(
        {
            "at": round(ending.ended_s, 6),
            "client": place(*ending.client),
            "frontend": ending.frontend,
            "backend": ending.backend,
            "server": ending.server,
            "waited_ms": ending.waited_ms,
            "connect_ms": ending.connect_ms,
            "total_ms": ending.total_ms,
            "bytes_to_client": ending.bytes_to_client,
            "bytes_to_server": ending.bytes_to_server,
            "termination": letters(ending),
            **dict(zip(names, ending.connections, strict=True)),
            "held": ending.held,
            "line": text(ending),
            "event": "connection.ended",
            "level": "info",
            "node": node,
        }
    )


def _ms(seconds: float) -> int:
    return max(0, round(seconds * 1000))
