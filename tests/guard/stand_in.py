"""Control's stand-in for tests of the guard: `python stand_in.py SPEC --guarded FD`. Its real end of the link, no more.

SPEC is JSON; see `SPEC`. It says what happens on its standard output, a word and its pid a line.
"""

import contextlib
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import trio

from gateway.control.guard import Fencing, GuardLink
from gateway.kernel.clock import boot_ms
from gateway.kernel.fence import LEASE_MS_MAX, Fence
from gateway.kernel.realtime import is_realtime, prefer_realtime

SPEC: dict[str, Any] = {
    "refuse": None,  # end with this status before READY
    "closes_link": False,  # close every copy of the link after READY, and live on
    "end": None,  # end with this status after READY
    "realtime": False,
    "heavy": False,  # import what the real control imports
    "packet_sockets": 0,  # open ones: closing each waits for the kernel's readers
    "threads": 0,  # idle ones, as trio keeps them
    "dead_ms": 30,
    "heartbeat_ms": 50,
    "lease_ms": 300,
    "wills": {},  # election -> {"lease_ms", "letters": [[host, port, hex]], and the fields of Fencing with pids}
    "once": None,  # a path: only the first life has wills or is blocked, and makes this file
    "busy_s": 0,  # run without a word, after READY
    "blocked_by": None,  # a FIFO: wait in the kernel (state D) after READY until somebody opens it to write
    "renews": False,  # with every beat a lease of the kernel's, of an address that is nobody's
    "heir": "",  # what a process does that is to take over: `ends` with status 3, or `acts`
    "deaf": False,  # ignore SIGTERM
    "relay": False,
}


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def fencing(will: dict[str, Any]) -> Fencing:
    return Fencing(
        at_end=will.get("at_end", False),
        requests=tuple(bytes.fromhex(request) for request in will.get("requests", ())),
        kills=tuple(os.pidfd_open(pid) for pid in will.get("kills", ())),
        hangups=tuple(os.pidfd_open(pid) for pid in will.get("hangups", ())),
        offspring=tuple((pid, binary) for pid, binary in will.get("offspring", ())),
        files=tuple((path, text) for path, text in will.get("files", ())),
        settle_ms=will.get("settle_ms", 0),
    )


async def serve(spec: dict[str, Any], link: GuardLink, is_heir: bool) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(link.run)
        while not link.report:  # noqa: ASYNC110 (the link sets no event)
            await trio.sleep(0.001)
        say("report", json.dumps(link.report))
        await nursery.start(until_term, nursery.cancel_scope, spec["deaf"])
        nursery.start_soon(until_lost, link)
        nursery.start_soon(tell_reloads_failed, link)
        if is_heir and spec["heir"] == "ends":
            os._exit(3)
        if spec["relay"]:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            relay = link.spawn_relay(theirs)
            await relay.started.wait()
            say("relay", relay.pid)
            nursery.start_soon(keep, ours)
        link.ready(
            dead_ms=spec["dead_ms"],
            heartbeat_ms=spec["heartbeat_ms"],
            lease_ms=spec["lease_ms"],
            realtime=is_realtime() or not spec["realtime"],
        )
        if is_first := is_first_life(spec["once"]):
            for election, will in spec["wills"].items():
                link.will(election, boot_ms() + will.get("lease_ms", 60_000), fencing(will))
                link.letters(election, tuple((h, p, bytes.fromhex(data)) for h, p, data in will.get("letters", ())))
        if is_heir:
            link.taken_over()
        say("ready", os.getpid())
        if is_first and spec["blocked_by"] is not None:
            block(spec["blocked_by"])
        if spec["end"] is not None:
            os._exit(spec["end"])
        if spec["closes_link"]:
            await trio.sleep(0.05)
            for number in range(900, 1024):
                with contextlib.suppress(OSError):
                    os.close(number)
            threading.Event().wait()
        until = trio.current_time() + spec["busy_s"]
        while trio.current_time() < until:
            pass
        renew = renewal() if is_first and spec["renews"] else lambda: True
        while True:
            link.beat()
            before = boot_ms()
            assert renew()
            if boot_ms() - before > spec["dead_ms"]:
                say("blocked", boot_ms() - before)
            await trio.sleep(spec["heartbeat_ms"] / 1000)


def is_first_life(mark: str | None) -> bool:
    if mark is None:
        return True
    first = not Path(mark).exists()
    Path(mark).touch()
    return first


async def keep(ours: socket.socket) -> None:
    with ours:
        await trio.sleep_forever()


async def until_term(everything: trio.CancelScope, deaf: bool, *, task_status: trio.TaskStatus[None]) -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            say("term", os.getpid())
            if not deaf:
                everything.cancel()


def renewal() -> Callable[[], bool]:
    fence = Fence("10.77.0.100", "lo", "vip")
    fence.install()
    fence.grant(LEASE_MS_MAX)
    say("renewing")
    return partial(fence.renew, LEASE_MS_MAX)


def block(fifo: str) -> None:
    """Wait in the kernel where only SIGKILL ends the wait: for a vforked child, which waits to open its input."""
    opening = (os.POSIX_SPAWN_OPEN, 0, fifo, os.O_RDONLY, 0)
    os.waitpid(os.posix_spawn("/bin/true", ["true"], {}, file_actions=[opening]), 0)


async def tell_reloads_failed(link: GuardLink) -> None:
    said = 0
    while True:
        if link.reloads_failed > said:
            said = link.reloads_failed
            say("reload-failed", link.reload_failure)
        await trio.sleep(0.01)  # the link has no event for it


async def until_lost(link: GuardLink) -> None:
    await link.lost.wait()
    say("lost", os.getpid())
    os._exit(0)


def main(text: str, descriptor: int, is_heir: bool) -> None:
    spec = SPEC | json.loads(text)
    if spec["refuse"] is not None:
        sys.exit(spec["refuse"])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if spec["heavy"]:
        import gateway.daemon  # noqa: F401
    for _ in range(spec["threads"]):
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    packets = [socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x0300) for _ in range(spec["packet_sockets"])]
    if spec["realtime"]:
        prefer_realtime(10)
    link = GuardLink(socket.socket(fileno=descriptor))
    trio.run(serve, spec, link, is_heir)
    for election in spec["wills"]:
        link.clear(election)
    del packets


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[3]), "--adopt" in sys.argv)
