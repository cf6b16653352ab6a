"""Children that control can do without: replaced, never left behind, never waited for. Real processes."""

import os
import signal
import socket
import sys
from pathlib import Path

import trio

from gateway.control import offspring
from gateway.control.offspring import Offspring, python_module

# Says a line on its socket and lives until the socket ends.
POLITE = """
import os, socket, sys
end = socket.socket(fileno=int(sys.argv[-1]))
end.sendall(f"{os.getpid()} {os.sched_getscheduler(0)} {sorted(os.listdir('/proc/self/fd'), key=int)}\\n".encode())
while end.recv(100): pass
"""
DEAF = POLITE.replace("while end.recv(100): pass", "import time; time.sleep(100)")


class Heard:
    """What the children have said."""

    def __init__(self):
        self.send, self.lines = trio.open_memory_channel(10)

    async def serve(self, stream):
        async for piece in stream:
            await self.send.send(piece.decode())


def lives(pid: int) -> bool:
    """Tell whether a process runs; one that has ended and is not collected yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_a_child_that_dies_is_replaced(monkeypatch, nursery):
    monkeypatch.setattr(offspring, "BACK_OFF_MS_MIN", 10)
    heard = Heard()
    child = Offspring("test", [sys.executable, "-c", POLITE], heard.serve)
    await nursery.start(child.run)
    with trio.fail_after(20):
        first = int((await heard.lines.receive()).split()[0])
        os.kill(first, signal.SIGKILL)
        second = int((await heard.lines.receive()).split()[0])
    assert first != second
    assert child.status() == {"pid": second, "starts_total": 2, "failure": "killed by signal 9"}


async def test_a_child_gets_one_descriptor_and_the_ordinary_scheduler():
    heard = Heard()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        os.set_inheritable(ours.fileno(), True)
        async with trio.open_nursery() as nursery:
            await nursery.start(Offspring("test", [sys.executable, "-c", POLITE], heard.serve).run)
            with trio.fail_after(20):
                _, scheduler, *descriptors = (await heard.lines.receive()).split()
            nursery.cancel_scope.cancel()
    assert int(scheduler) == os.SCHED_OTHER
    assert len(descriptors) == 5, "standard ones, its own, and the folder that it looks at"


async def test_a_child_that_is_started_again_finds_its_whole_charge_again(monkeypatch, nursery):
    monkeypatch.setattr(offspring, "BACK_OFF_MS_MIN", 10)
    counts = """
import socket, sys
end = socket.socket(fileno=int(sys.argv[-1]))
end.sendall(f"{len(sys.stdin.buffer.read())}\\n".encode())
"""
    heard, charge = Heard(), b"x" * 300_000  # more than a pipe takes
    await nursery.start(Offspring("test", [sys.executable, "-c", counts], heard.serve, charge=charge).run)
    with trio.fail_after(20):
        for _ in range(2):
            assert int(await heard.lines.receive()) == len(charge)


async def test_a_child_ends_with_control_which_does_not_wait_for_it():
    heard = Heard()
    async with trio.open_nursery() as nursery:
        await nursery.start(Offspring("test", [sys.executable, "-c", DEAF], heard.serve).run)
        with trio.fail_after(20):
            pid = int((await heard.lines.receive()).split()[0])
        nursery.cancel_scope.cancel()
    with trio.fail_after(20):
        while lives(pid):  # noqa: ASYNC110 (somebody else's process)
            await trio.sleep(0.01)


async def test_a_child_that_has_closed_its_socket_and_goes_on_is_killed_and_replaced(monkeypatch, nursery):
    monkeypatch.setattr(offspring, "BACK_OFF_MS_MIN", 10)
    heard = Heard()
    closing = DEAF.replace("import time;", "end.close(); import time;")
    child = Offspring("test", [sys.executable, "-c", closing], heard.serve, end_ms=50)
    await nursery.start(child.run)
    with trio.fail_after(20):
        first = int((await heard.lines.receive()).split()[0])
        await heard.lines.receive()
    assert not lives(first)


async def test_a_child_that_has_something_to_finish_is_left_to_it():
    heard = Heard()
    async with trio.open_nursery() as nursery:
        await nursery.start(Offspring("test", [sys.executable, "-c", DEAF], heard.serve, end_ms=None).run)
        with trio.fail_after(20):
            pid = int((await heard.lines.receive()).split()[0])
        nursery.cancel_scope.cancel()
    assert lives(pid)
    os.kill(pid, signal.SIGKILL)


async def test_what_cannot_be_started_is_said_and_tried_again(monkeypatch, nursery):
    monkeypatch.setattr(offspring, "BACK_OFF_MS_MIN", 10_000)
    child = Offspring("test", ["/nonexistent/program"], Heard().serve)
    await nursery.start(child.run)
    with trio.fail_after(20):
        while not child.failure:  # noqa: ASYNC110 (it is a word, not an event)
            await trio.sleep(0.01)
    assert child.failure == "could not be started: No such file or directory"


def test_a_module_of_this_program_is_run_by_this_interpreter():
    assert python_module("gateway.relay", "a") == (sys.executable, "-P", "-m", "gateway.relay", "a")
