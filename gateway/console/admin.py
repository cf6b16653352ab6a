"""The admin protocol: one request a line in, one JSON document a line out, on a unix socket that only root reaches.

A request is a command's bare name (`status`), or a JSON object with the command and what it takes
(`{"command": "pause", "reason": "moving a rack"}`). A refusal is `{"error": SENTENCE, "reason": NAME}`. The answer to
some commands is a stream: a document a line for as long as somebody reads.
"""

import contextlib
import json
import os
import socket
from collections.abc import AsyncIterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import structlog
import trio

from gateway.control.commands import CommandRefused, Commands, Level, Request

LINE_BYTES_MAX = 16_384
ANSWER_BYTES_MAX = 4 * 1024 * 1024
IDLE_S_MAX = 60  # a client that says nothing is sent away; one that reads a stream may be silent
CLIENTS_MAX = 32


class AdminUnreachable(Exception):  # noqa: N818 (an answer to the operator)
    """No node answers at an admin socket."""


async def serve_admin(
    path: Path, commands: Commands, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Answer the commands on the unix socket `path` until cancelled; a stale socket is replaced."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    listening = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    previous = os.umask(0o177)  # never a moment at which others could connect
    try:
        await listening.bind(str(path))
    finally:
        os.umask(previous)
    listening.listen(CLIENTS_MAX)
    limit = trio.CapacityLimiter(CLIENTS_MAX)
    try:
        task_status.started()
        listeners = [trio.SocketListener(listening)]

        async def serve(stream: trio.SocketStream) -> None:
            async with limit:
                await serve_client(stream, commands, idle_s_max=IDLE_S_MAX)

        await trio.serve_listeners(serve, listeners)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)


async def serve_client(
    stream: trio.SocketStream, commands: Commands, level: Level = Level.ADMIN, *, idle_s_max: float | None = None
) -> None:
    """Answer one client until it goes away, says something too long, or is silent for `idle_s_max`."""
    waiting = b""
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        async with stream:
            while len(waiting) <= LINE_BYTES_MAX:
                with trio.move_on_after(float("inf") if idle_s_max is None else idle_s_max) as idle:
                    data = await stream.receive_some(LINE_BYTES_MAX)
                if idle.cancelled_caught or not data:
                    return
                *lines, waiting = (waiting + data).split(b"\n")
                for line in lines:
                    await _answer_line(stream, commands, level, line)


async def _answer_line(stream: trio.SocketStream, commands: Commands, level: Level, line: bytes) -> None:
    try:
        answer = await commands.answer(read_request_untrusted(line), level)
    except CommandRefused as refusal:
        answer = {"error": str(refusal), "reason": refusal.reason}
    if isinstance(answer, AsyncIterable):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_end_with_reader, stream, nursery.cancel_scope)
            # Here, for around the nursery it would be a group of exceptions, which `suppress` lets through.
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await _stream_out(stream, answer)
            nursery.cancel_scope.cancel()
    else:
        await stream.send_all(_line(answer))


async def _stream_out(stream: trio.SocketStream, answer: AsyncIterable[Any]) -> None:
    try:
        async for document in answer:
            await stream.send_all(_line(document))
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        raise
    except Exception as error:  # noqa: BLE001 (what somebody asks must not end the node)
        structlog.get_logger().exception("command.failed", command="a stream")
        await stream.send_all(_line({"error": f"the command failed: {error!r}", "reason": "failed"}))


async def _end_with_reader(stream: trio.SocketStream, streaming: trio.CancelScope) -> None:
    """End a stream when its reader has gone; whatever else it says meanwhile is too late to be obeyed."""
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while await stream.receive_some(LINE_BYTES_MAX):
            pass
    streaming.cancel()


def read_request_untrusted(line: bytes) -> Request:
    """Return the request of one line.

    Raises:
        CommandRefused: it is neither a word nor a JSON object with a command.
    """
    text = line.decode("utf-8", "replace").strip()
    if not text.startswith("{"):
        return {"command": text}
    try:
        request = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CommandRefused(f"this is no JSON object: {error}", "malformed") from error
    if not isinstance(request, dict) or not isinstance(request.get("command"), str):
        raise CommandRefused('a request is a JSON object with a "command"', "malformed")
    return request


def _line(document: Any) -> bytes:
    return encoded(document) + b"\n"


def encoded(document: Any) -> bytes:
    """Return a document as JSON, a tenth as long on its way as by `json`: control does it, and may answer megabytes."""
    try:
        return msgspec.json.encode(document)
    except (TypeError, ValueError):  # half a character in a name that somebody has sent
        return json.dumps(document).encode()


def ask_admin(path: Path, request: str | Request, *, wait_s: float = 5.0) -> Any:
    """Ask a running node, from the command line; return its answer, which may be a refusal.

    Raises:
        AdminUnreachable: no node runs there, this user may not ask, or it did not answer in time.
    """
    with _connected(path, request, wait_s) as asked:
        answer = b""
        with _explained(path, wait_s):
            while not answer.endswith(b"\n") and len(answer) < ANSWER_BYTES_MAX:
                data = asked.recv(65_536)
                if not data:
                    break
                answer += data
            return json.loads(answer)


def follow_events(path: Path, after: int = 0, *, wait_s: float = 5.0) -> Iterator[dict[str, Any]]:
    """Yield the node's events with numbers above `after` (0: new ones only), until it ends.

    Raises:
        AdminUnreachable: as `ask_admin`.
    """
    with _connected(path, {"command": "events", "after": after}, wait_s) as asked:
        asked.settimeout(None)
        with asked.makefile("rb") as lines:
            for line in lines:
                yield json.loads(line)


@contextlib.contextmanager
def _connected(path: Path, request: str | Request, wait_s: float) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asked:
        with _explained(path, wait_s):
            asked.settimeout(wait_s)
            asked.connect(str(path))
            asked.sendall((request if isinstance(request, str) else json.dumps(request)).encode() + b"\n")
        yield asked


@contextlib.contextmanager
def _explained(path: Path, wait_s: float) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise AdminUnreachable(f"no condor-gateway answers at '{path}': is it running on this host?") from error
    except PermissionError as error:
        raise AdminUnreachable(f"'{path}' may be used by root only") from error
    except (TimeoutError, ValueError, ConnectionResetError, BrokenPipeError) as error:
        raise AdminUnreachable(f"condor-gateway at '{path}' did not answer within {wait_s:g} s") from error
