"""A steady queue of short jobs: a feeder keeps some of each user idle at all times, also while the pool is broken.

It looks at the job event logs, which costs no process, and submits in batches: two cores run the whole pool.
"""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import trio

from gateway.lab.errors import LabError
from gateway.lab.measure.ledger import Job, Ledger
from gateway.lab.pool import Lab
from gateway.lab.topology import USERS

SUBMIT_HOST = "submit1"
USERS_SUBMITTING = tuple(USERS)[:3]
JOB_SECONDS = (4, 7, 5, 8, 6)  # in turn, so that every batch is the same work
JOB_MEAN_S = sum(JOB_SECONDS) / len(JOB_SECONDS)
IDLE_PER_SLOT = 4  # a slot runs some eight jobs a minute: half a minute's work lies ready
LOOK_S = 1.0
# A schedd that hears of new jobs tells the negotiator, and waits for its answer; the negotiator, once a second, begins
# to negotiate and waits for the schedd. When the two meet, both stand still for 20 s (seen; whoever makes the pool
# available). A hint that is on its way through a gateway in the moment in which that is frozen stops the schedd for
# 60 s. The queue is never empty here, so that the negotiator need not be told: only the first batch does.
QUIETLY = {"_CONDOR_SUBMIT_SEND_RESCHEDULE": "False"}
QUEUE_S_MAX = 90.0
SUBMIT_S_MAX = 60.0  # a schedd that waits for a dead manager may keep condor_submit waiting

_JOBS = """\
universe = vanilla
executable = /usr/bin/sleep
transfer_executable = False
should_transfer_files = NO
arguments = $(seconds)
requirements = {requirements}
notification = never
log = {log}
queue seconds in ({seconds})
"""


class Submitting(Protocol):
    """What is needed of a pool here: a namespace lab's, or one of virtual machines."""

    async def exec(
        self,
        host: str,
        argv: Sequence[str],
        *,
        timeout_s: float = ...,
        user: str | None = ...,
        input: str | None = ...,
        environment: Mapping[str, str] | None = ...,
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command on a host."""

    def file(self, host: str, path: str) -> Path:
        """Return where a host's file can be read on the machine."""


class _Part:
    """One user's share of the load: its jobs, and how far its event log was read."""

    def __init__(self, user: str, mark: str) -> None:
        self.user = user
        self.path = f"/home/{user}/measure-{mark}.log"
        self.ledger = Ledger()
        self.offset = 0


class Load:
    """The jobs of one measurement, of several users on one submit host; those of a lab's slots that it is to fill.

    `slots` may be left out for a namespace lab alone. `requirements`: of the slots that they may run on.
    `feed` runs as a task; the other methods may be called at any time.
    """

    def __init__(
        self,
        lab: Submitting,
        mark: str,
        *,
        host: str = SUBMIT_HOST,
        users: Sequence[str] = USERS_SUBMITTING,
        slots: int | None = None,
        seconds: Sequence[int] = JOB_SECONDS,
        requirements: str = "True",
    ) -> None:
        self._lab = lab
        self.host = host
        self.ledger = Ledger()  # of all users
        self.failures: list[str] = []  # of condor_submit
        self.silent_s = 0.0  # how long the last question for the queue had no answer
        if slots is None:
            assert isinstance(lab, Lab), "the slots of another pool must be said"
            slots = lab.topology.execute * lab.topology.slots
        self._requirements = requirements
        self._mark = mark
        self._parts = [_Part(user, mark) for user in users]
        batch = -(-IDLE_PER_SLOT * slots // len(users))
        self.idle_min = batch * len(users)
        self._batch = [str(seconds[number % len(seconds)]) for number in range(batch)]

    def logs(self) -> list[Path]:
        """The job event logs, where the machine can read them."""
        return [self._lab.file(self.host, part.path) for part in self._parts]

    def look(self) -> Ledger:
        """Read what the event logs have gained and return the ledger."""
        for part in self._parts:
            try:
                with self._lab.file(self.host, part.path).open("rb") as file:
                    file.seek(part.offset)
                    data = file.read()
            except FileNotFoundError:
                continue  # no job was submitted yet
            whole = data[: data.rfind(b"\n") + 1]  # the others' lines must not come into the middle of one
            part.offset += len(whole)
            for ledger in (self.ledger, part.ledger):
                ledger.read(whole.decode(errors="replace"))
        return self.ledger

    def add_user(self, user: str) -> None:
        """Submit jobs of one more user from now on."""
        self._parts.append(_Part(user, self._mark))
        self.idle_min += len(self._batch)

    async def feed(self) -> None:
        """Keep a share of `idle_min` jobs of each user idle until cancelled. A refused batch is tried again."""
        while True:  # ends when it is cancelled
            self.look()
            for part in list(self._parts):
                if part.ledger.idle < len(self._batch):
                    await self._submit(part)
            await trio.sleep(LOOK_S)

    async def _submit(self, part: _Part) -> None:
        text = _JOBS.format(log=part.path, seconds=", ".join(self._batch), requirements=self._requirements)
        try:
            done = await self._lab.exec(
                self.host,
                ["condor_submit", "-terse", "-"],
                user=part.user,
                input=text,
                timeout_s=SUBMIT_S_MAX,
                environment=QUIETLY if self.ledger.submitted else {},
            )
        except LabError as error:
            self.failures.append(str(error))
            return
        if done.returncode != 0:
            self.failures.append((done.stderr or done.stdout).strip())

    async def in_queue(self) -> set[Job] | None:
        """Return the jobs that condor_q shows, held ones included; None: it does not answer within `QUEUE_S_MAX`.

        A schedd that waits for the answer of a host that is gone answers nobody meanwhile, for up to a minute; no job
        is lost by that. `silent_s` says afterwards how long it was.
        """
        began = trio.current_time()
        while True:  # ends with an answer, or at the limit
            found = await self._ask_queue()
            self.silent_s = trio.current_time() - began
            if found is not None or self.silent_s >= QUEUE_S_MAX:
                return found
            await trio.sleep(LOOK_S)

    async def _ask_queue(self) -> set[Job] | None:
        try:
            done = await self._lab.exec(self.host, ["condor_q", "-allusers", "-af", "ClusterId", "ProcId"])
        except LabError:
            return None
        if done.returncode != 0:
            return None
        pairs = (line.split() for line in done.stdout.splitlines())
        return {(int(pair[0]), int(pair[1])) for pair in pairs if len(pair) == 2}

    async def lost(self) -> set[Job] | None:
        """Return the jobs that vanished, were held or were removed; None when the queue does not answer."""
        queue = await self.in_queue()  # before the log is read: see Ledger.lost
        return None if queue is None else self.look().lost(queue)

    async def remove(self) -> None:
        """Take this measurement's jobs out of the queue, for a lab that others go on using."""
        clusters = sorted({str(cluster) for cluster, _ in self.look().jobs})
        if clusters:
            await self._lab.exec(self.host, ["condor_rm", *clusters])
