"""The admin socket: one command a line in, one JSON document a line out. Root only, by the socket's mode."""

import contextlib
import json
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import trio

LINE_BYTES_MAX = 4_096
ANSWER_BYTES_MAX = 4 * 1024 * 1024
IDLE_S_MAX = 60  # a client that says nothing is sent away
CLIENTS_MAX = 32

Command = Callable[[], Any]


class AdminUnreachable(Exception):  # noqa: N818 (an answer to the operator)
    """No node answers at an admin socket."""


async def serve_admin(
    path: Path, commands: Mapping[str, Command], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
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
    try:
        task_status.started()
        listeners = [trio.SocketListener(listening)]

        async def serve(stream: trio.SocketStream) -> None:
            await _serve_client(stream, commands)

        await trio.serve_listeners(serve, listeners)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)


async def _serve_client(stream: trio.SocketStream, commands: Mapping[str, Command]) -> None:
    with trio.move_on_after(IDLE_S_MAX), contextlib.suppress(trio.BrokenResourceError):
        waiting = b""
        async with stream:
            while len(waiting) <= LINE_BYTES_MAX and (data := await stream.receive_some(LINE_BYTES_MAX)):
                *lines, waiting = (waiting + data).split(b"\n")
                for line in lines:
                    name = line.decode("utf-8", "replace").strip()
                    command = commands.get(name)
                    answer = command() if command else {"error": f"unknown command {name!r}; known: {sorted(commands)}"}
                    await stream.send_all(json.dumps(answer).encode() + b"\n")


def ask_admin(path: Path, command: str, *, wait_s: float = 5.0) -> Any:
    """Ask a running node, from the command line.

    Raises:
        AdminUnreachable: no node runs there, this user may not ask, or it did not answer in time.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asked:
            asked.settimeout(wait_s)
            asked.connect(str(path))
            asked.sendall(command.encode() + b"\n")
            answer = b""
            while not answer.endswith(b"\n") and len(answer) < ANSWER_BYTES_MAX:
                data = asked.recv(65_536)
                if not data:
                    break
                answer += data
        return json.loads(answer)
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise AdminUnreachable(f"no condor-gateway answers at '{path}': is it running on this host?") from error
    except PermissionError as error:
        raise AdminUnreachable(f"'{path}' may be used by root only") from error
    except (TimeoutError, ValueError) as error:
        raise AdminUnreachable(f"condor-gateway at '{path}' did not answer within {wait_s:g} s") from error
