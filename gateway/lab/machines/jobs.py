"""The pool's jobs while scenarios run: a steady feeder that knows of every job, and single jobs that are timed.

The feeder's jobs leave the first slot of every execute host alone: a job that is timed finds a slot, and needs nothing
but a match by the elected manager. What a job's log says is read on this machine, as it is written there.
"""

import contextlib
import os
import time
from collections.abc import AsyncIterator

import trio

from gateway.lab.errors import LabError
from gateway.lab.machines.contract import EXECUTE, SUBMIT, Pool, names_of
from gateway.lab.measure.ledger import Job
from gateway.lab.measure.load import QUIETLY, Load

FEEDER_SECONDS = (9, 12, 10, 8, 11)
FEEDER_REQUIREMENTS = "SlotID > 1 && SlotID <= {last}"
LOOK_S = 0.1
SUBMIT_S_MAX = 45.0
SETTLE_S = 1.0  # between the answer of condor_q and the last line of a log that is followed

_TIMED = """\
universe = vanilla
executable = /usr/bin/sleep
transfer_executable = False
should_transfer_files = NO
arguments = 1
requirements = SlotID =?= 1
priority = 10
notification = never
log = {log}
queue 1
"""


class Jobs:
    """All jobs of one run of scenarios."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        slots = pool.limits.feeder_slots
        self.host = names_of(pool, SUBMIT)[0]
        self.user = pool.users[0]
        self._mark = f"scenarios-{os.getpid()}"
        self.load = Load(
            pool,
            self._mark,
            host=self.host,
            users=(self.user,),
            slots=slots * len(names_of(pool, EXECUTE)),
            seconds=FEEDER_SECONDS,
            requirements=FEEDER_REQUIREMENTS.format(last=1 + slots),
        )
        self._known: set[Job] = set()  # lost before: each job is lost once
        self._log = f"/home/{self.user}/measure-{self._mark}.log"  # as `Load` names it

    @contextlib.asynccontextmanager
    async def flowing(self) -> AsyncIterator["Jobs"]:
        """Feed the pool while the block runs; take all jobs out of the queue at the end."""
        async with self._pool.following(self.host, self._log), trio.open_nursery() as nursery:
            nursery.start_soon(self.load.feed)
            try:
                yield self
            finally:
                nursery.cancel_scope.cancel()
                with (
                    trio.CancelScope(shield=True, deadline=trio.current_time() + SUBMIT_S_MAX),
                    contextlib.suppress(LabError),
                ):
                    await self.load.remove()

    def started(self) -> int:
        """Return how often a job has begun to run, by now."""
        return sum(len(starts) for starts in self.load.look().executed.values())

    async def timed(self, since: float, within_s: float) -> float | None:
        """Submit a job and return when it ran, in seconds after `since`; None: not within `within_s` of that.

        The time is that at which this machine reads of it, so that no guest's clock counts.
        """
        limit = since + within_s
        job: Job | None = None
        while time.time() < limit:
            if job is None:
                job = await self._submit()
            elif job in self.load.look().executed:
                return time.time() - since
            await trio.sleep(LOOK_S)
        return None

    async def _submit(self) -> Job | None:
        """Submit one job; None: it was refused, and is to be tried again."""
        try:
            done = await self._pool.exec(
                self.host,
                ["condor_submit", "-terse", "-"],
                user=self.user,
                input=_TIMED.format(log=self._log),
                timeout_s=SUBMIT_S_MAX,
                environment=QUIETLY,
            )
        except LabError as error:
            self.load.failures.append(str(error))
            return None
        if done.returncode != 0:
            self.load.failures.append((done.stderr or done.stdout).strip())
            return None
        cluster, _, process = done.stdout.split()[0].partition(".")
        return int(cluster), int(process)

    async def lost(self) -> set[Job] | None:
        """Return the jobs that vanished, were held or were removed since the last call; None: the queue is silent."""
        queue = await self.load.in_queue()
        await trio.sleep(SETTLE_S)
        if queue is None:
            return None
        found = self.load.look().lost(queue) - self._known
        self._known |= found
        return found
