"""A steady queue of short jobs: a feeder keeps some idle at all times, also while the pool is broken.

It looks at the job event log, which costs no process, and submits in batches: two cores run the whole pool.
"""

from pathlib import Path

import trio

from gateway.lab.errors import LabError
from gateway.lab.measure.ledger import Job, Ledger
from gateway.lab.pool import Lab
from gateway.lab.rootfs import USER

SUBMIT_HOST = "submit1"
JOB_SECONDS = (4, 7, 5, 8, 6)  # in turn, so that every batch is the same work
JOB_MEAN_S = sum(JOB_SECONDS) / len(JOB_SECONDS)
IDLE_PER_SLOT = 4  # a slot runs some eight jobs a minute: half a minute's work lies ready
LOOK_S = 1.0
# A schedd that hears of new jobs tells the negotiator, and waits for its answer; the negotiator, once a second, begins
# to negotiate and waits for the schedd. When the two meet, both stand still for 20 s (seen; whoever makes the pool
# available). The queue is never empty here, so that the negotiator need not be told: only the first batch does.
_QUIETLY = {"_CONDOR_SUBMIT_SEND_RESCHEDULE": "False"}
SUBMIT_S_MAX = 60.0  # a schedd that waits for a dead manager may keep condor_submit waiting

_JOBS = """\
universe = vanilla
executable = /usr/bin/sleep
transfer_executable = False
should_transfer_files = NO
arguments = $(seconds)
notification = never
log = {log}
queue seconds in ({seconds})
"""


class Load:
    """The jobs of one measurement. `feed` runs as a task; the other methods may be called at any time."""

    def __init__(self, lab: Lab, mark: str) -> None:
        self._lab = lab
        self.ledger = Ledger()
        self.failures: list[str] = []  # of condor_submit
        slots = lab.topology.execute * lab.topology.slots
        self.idle_min = IDLE_PER_SLOT * slots
        self._log_path = f"/home/{USER}/measure-{mark}.log"
        self._offset = 0
        self._batch = [str(JOB_SECONDS[number % len(JOB_SECONDS)]) for number in range(self.idle_min)]

    @property
    def log(self) -> Path:
        """The job event log, where the machine can read it."""
        return self._lab.file(SUBMIT_HOST, self._log_path)

    def look(self) -> Ledger:
        """Read what the event log has gained and return the ledger."""
        try:
            with self.log.open(errors="replace") as file:
                file.seek(self._offset)
                text = file.read()
                self._offset = file.tell()
        except FileNotFoundError:
            return self.ledger  # no job was submitted yet
        self.ledger.read(text)
        return self.ledger

    async def feed(self) -> None:
        """Keep `idle_min` jobs idle until cancelled. A batch that is refused is noted and tried again."""
        while True:  # ends when it is cancelled
            if self.look().idle < self.idle_min:
                await self._submit()
            await trio.sleep(LOOK_S)

    async def _submit(self) -> None:
        text = _JOBS.format(log=self._log_path, seconds=", ".join(self._batch))
        try:
            done = await self._lab.exec(
                SUBMIT_HOST,
                ["condor_submit", "-terse", "-"],
                user=USER,
                input=text,
                timeout_s=SUBMIT_S_MAX,
                environment=_QUIETLY if self.ledger.submitted else {},
            )
        except LabError as error:
            self.failures.append(str(error))
            return
        if done.returncode != 0:
            self.failures.append((done.stderr or done.stdout).strip())

    async def in_queue(self) -> set[Job] | None:
        """Return the jobs that condor_q shows, held ones included; None when it does not answer."""
        try:
            done = await self._lab.exec(SUBMIT_HOST, ["condor_q", "-allusers", "-af", "ClusterId", "ProcId"])
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
            await self._lab.exec(SUBMIT_HOST, ["condor_rm", *clusters], user=USER)
