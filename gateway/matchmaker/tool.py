"""A program that is run for what it prints, and that never holds up whoever has it run.

Rule: it is killed when it is not waited for any more. What can't be killed (in a call of a disk that hangs, or of NFS)
is left behind: neither a deadline nor the end of this process waits for it.
"""

import contextlib
import os
import subprocess
from collections.abc import Sequence
from typing import Final

import msgspec
import trio

# From SIGKILL to the end of a process that obeys it: milliseconds. At a reload nobody acts meanwhile, and the lease of
# whatever this node leads goes on.
KILLED_S_MAX: Final = 0.1
NICE: Final = 10


class Printed(msgspec.Struct, frozen=True):
    """What a program has left, with its exit status; below 0 it is a signal's number."""

    returncode: int
    stdout: bytes
    stderr: bytes


async def run_printing(argv: Sequence[str], stdin: bytes = b"") -> Printed:
    """Run a program to its end; cancelled, kill it.

    Raises:
        OSError: it can't be started.
    """
    process = await trio.lowlevel.open_process(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with contextlib.suppress(OSError):
        # HTCondor's daemons come first. Where processors are slow the look at a new leader's collector took its
        # negotiator's time: four seconds until its first match.
        os.setpriority(os.PRIO_PROCESS, process.pid, NICE)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    stdout, stderr = bytearray(), bytearray()
    try:
        async with process.stdin, process.stdout, process.stderr, trio.open_nursery() as nursery:
            nursery.start_soon(_give, process.stdin, stdin)
            nursery.start_soon(_take, process.stdout, stdout)
            nursery.start_soon(_take, process.stderr, stderr)
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            with trio.move_on_after(KILLED_S_MAX, shield=True):
                await process.wait()
    assert process.returncode is not None, "it has been waited for"
    return Printed(process.returncode, bytes(stdout), bytes(stderr))


async def _give(stream: trio.abc.SendStream, data: bytes) -> None:
    async with stream:
        with contextlib.suppress(trio.BrokenResourceError):  # it does not want all of it
            await stream.send_all(data)


async def _take(stream: trio.abc.ReceiveStream, into: bytearray) -> None:
    async for piece in stream:
        into += piece
