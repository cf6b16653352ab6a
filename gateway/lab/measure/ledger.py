"""Every job that was submitted, and what became of it, from HTCondor's job event log. Holds no file and no clock."""

import enum
import re
from collections.abc import Iterable

from gateway.lab.measure.logs import iso_time

# 001 (012.003.000) 2026-11-22 23:04:22.123 Job executing on host: <...>
_EVENT = re.compile(r"(\d{3}) \((\d+)\.(\d+)\.\d+\) (\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d+)?Z?) ")

Job = tuple[int, int]  # (cluster, process), as condor_q prints them


class Status(enum.StrEnum):
    """Where a job stands."""

    IDLE = "idle"
    RUNNING = "running"
    COMPLETED = "completed"
    HELD = "held"
    REMOVED = "removed"


# Event numbers of condor_event.h. What is not named changes nothing (image size, ad information, ...).
_SUBMIT, _EXECUTE, _TERMINATED = 0, 1, 5
_BECOMES = {
    _SUBMIT: Status.IDLE,
    _EXECUTE: Status.RUNNING,
    4: Status.IDLE,  # evicted
    _TERMINATED: Status.COMPLETED,
    7: Status.IDLE,  # shadow exception: the schedd will try again
    9: Status.REMOVED,
    12: Status.HELD,
    13: Status.IDLE,  # released
    24: Status.IDLE,  # reconnect failed
}


class Ledger:
    """The state of every job that the event log names; fed with the log piece by piece."""

    def __init__(self) -> None:
        self.jobs: dict[Job, Status] = {}
        self.executed: dict[Job, list[float]] = {}
        self.completed_at: list[float] = []
        self._torn = ""

    def read(self, text: str) -> None:
        """Take the next piece of the log; a line torn at its end waits for the rest."""
        lines = (self._torn + text).split("\n")
        self._torn = lines.pop()
        for line in lines:
            if found := _EVENT.match(line):
                self._event(int(found[1]), (int(found[2]), int(found[3])), iso_time(found[4]))

    def _event(self, number: int, job: Job, at: float) -> None:
        becomes = _BECOMES.get(number)
        if becomes is None:
            return
        # An aborted job may follow its own termination in the log; done is done.
        if self.jobs.get(job) is Status.COMPLETED and number != _EXECUTE:
            return
        self.jobs[job] = becomes
        if number == _EXECUTE:
            self.executed.setdefault(job, []).append(at)
        elif number == _TERMINATED:
            self.completed_at.append(at)

    def count(self, status: Status) -> int:
        """Return how many jobs stand so."""
        return sum(1 for value in self.jobs.values() if value is status)

    @property
    def idle(self) -> int:
        """Return how many jobs wait for a match."""
        return self.count(Status.IDLE)

    @property
    def submitted(self) -> int:
        """Return how many jobs were ever submitted."""
        return len(self.jobs)

    def per_minute(self, since: float, until: float) -> float:
        """Return the completed jobs of [since, until), as a rate per minute."""
        assert until > since, "a rate needs a span of time"
        done = sum(1 for at in self.completed_at if since <= at < until)
        return done * 60.0 / (until - since)

    def lost(self, in_queue: Iterable[Job]) -> set[Job]:
        """Return the jobs that are neither completed nor waiting nor running: vanished, held or removed.

        `in_queue`: what condor_q showed, asked *before* the log was read to its end: a job that left the queue in
        between has its last event in the log by then.
        """
        queue = set(in_queue)
        return {
            job
            for job, status in self.jobs.items()
            if status is not Status.COMPLETED and (job not in queue or status in (Status.HELD, Status.REMOVED))
        }

    def restarted(self) -> set[Job]:
        """Return the jobs that began to run more than once: not lost, but some work was done twice."""
        return {job for job, starts in self.executed.items() if len(starts) > 1}
