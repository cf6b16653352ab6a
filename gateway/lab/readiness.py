"""Is the pool there? Asked of HTCondor with its own tools on the lab's hosts, as a user would ask."""

import subprocess
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from gateway.lab.errors import LabError
from gateway.lab.packages import Progress
from gateway.lab.topology import Kind, Topology

POLL_S = 0.25
QUESTION_S_MAX = 10.0  # HTCondor's tools wait 20 s for a daemon that is deaf; another try comes sooner
MATCHMAKER_S_MAX = 45.0  # a collector answers within a second, an election takes one more

FIRST_JOB = "universe = vanilla\nexecutable = /usr/bin/true\nshould_transfer_files = NO\nqueue 1\n"


class Asked(Protocol):
    """What is needed of a lab here."""

    topology: Topology

    async def exec(self, host: str, argv: list[str], *, timeout_s: float = ...) -> "subprocess.CompletedProcess[str]":
        """Run a command on a host."""

    async def submit(self, description: str) -> str:
        """Submit jobs."""


async def _until_nothing_is_missing(missing: Callable[[], Awaitable[str]], timeout_s: float, progress: Progress) -> str:
    """Ask again and again what is missing; return "" as soon as nothing is, or the last answer after `timeout_s`."""
    last = ""
    with trio.move_on_after(timeout_s):
        while True:
            try:
                now = await missing()
            except LabError as error:
                now = str(error)
            if not now:
                return ""
            if now != last:
                progress(f"waiting: {now}")
            last = now
            await trio.sleep(POLL_S)
    return last or "no answer"


async def wait_for_matchmaker(lab: Asked, progress: Progress) -> None:
    """Wait until a collector answers where the pool's entities will look for it; go on after `MATCHMAKER_S_MAX`.

    Entities that boot before it lose their first update, and HTCondor's next one comes 300 s later.
    """
    # The last manager: the first is most likely elected, and nobody asks himself through a transparent relay.
    asker = lab.topology.of_kind(Kind.MANAGER)[-1].name

    async def missing() -> str:
        argv = ["condor_status", "-pool", lab.topology.condor_host.partition(",")[0], "-collector", "-af", "Name"]
        done = await lab.exec(asker, argv, timeout_s=QUESTION_S_MAX)
        return "" if done.returncode == 0 and done.stdout.strip() else "no matchmaker answers"

    await _until_nothing_is_missing(missing, MATCHMAKER_S_MAX, progress)


async def wait_for_pool(lab: Asked, timeout_s: float, progress: Progress) -> None:
    """Wait until the first submit host sees every slot and schedd, and a job has run.

    Raises:
        LabError: not within `timeout_s`; it says what was missing.
    """
    submitted = False

    async def missing() -> str:
        nonlocal submitted
        if lacking := "" if submitted else await _lacking(lab):
            return lacking
        if not submitted:
            await lab.submit(FIRST_JOB)
            submitted = True
        done = await lab.exec("submit1", ["condor_q", "-allusers", "-af", "ClusterId"], timeout_s=QUESTION_S_MAX)
        return "the first job has not run" if done.returncode != 0 or done.stdout.strip() else ""

    if lacking := await _until_nothing_is_missing(missing, timeout_s, progress):
        raise LabError(f"the pool of lab {lab.topology.name!r} is not ready after {timeout_s:g} s: {lacking}")


async def _lacking(lab: Asked) -> str:
    done = await lab.exec("submit1", ["condor_status", "-af", "Name"], timeout_s=QUESTION_S_MAX)
    slots = len(done.stdout.split()) if done.returncode == 0 else 0
    if slots < (wanted := lab.topology.execute * lab.topology.slots):
        return f"{slots} of {wanted} slots seen"
    done = await lab.exec("submit1", ["condor_status", "-schedd", "-af", "Name"], timeout_s=QUESTION_S_MAX)
    schedds = len(done.stdout.split()) if done.returncode == 0 else 0
    return "" if schedds >= lab.topology.submit else f"{schedds} of {lab.topology.submit} schedds seen"
