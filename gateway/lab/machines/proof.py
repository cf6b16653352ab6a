"""Is the pool well? Every node is asked, and the pool as a user meets it: the reasons against it, or none.

Nothing is broken in a pool that is not proven well, and nothing is said of a fault that came before the proof.
"""

import contextlib
import time
from collections.abc import Callable

import trio

from gateway.lab.errors import LabError
from gateway.lab.machines import evidence
from gateway.lab.machines.contract import EXECUTE, SUBMIT, Pool, names_of
from gateway.lab.machines.evidence import ADDRESS, MATCHMAKER, Documents
from gateway.lab.machines.jobs import Jobs
from gateway.lab.measure.view import cluster_view

Progress = Callable[[str], None]

QUESTION_S_MAX = 20.0


class Unwell(LabError):  # noqa: N818 (an answer, not a mistake)
    """The pool is not well; the message says why."""


async def documents(pool: Pool) -> Documents:
    """Return the status document of every node that votes; None where it does not answer."""
    found: dict[str, dict[str, object] | None] = {}

    async def ask(name: str) -> None:
        found[name] = await pool.gateway_status(name)

    voting = [node.name for node in pool.nodes if node.votes]
    async with trio.open_nursery() as nursery:
        for name in voting:
            nursery.start_soon(ask, name)
    return {name: found[name] for name in voting}


def objections(said: Documents) -> list[str]:
    """Return what the nodes' documents have against the pool."""
    dumb = [name for name, document in said.items() if document is None]
    if dumb:
        return [f"no answer of {', '.join(dumb)}"]
    against = [
        f"{check.name}: {check.text}"
        for check in (
            evidence.one_leader(said, ADDRESS, "one holder"),
            evidence.one_leader(said, MATCHMAKER, "one elected manager"),
            evidence.one_negotiator(said),
        )
        if not check.good
    ]
    if against:
        return against
    leader = evidence.leaders(said, MATCHMAKER)[0]
    seen = cluster_view(said[leader] or {})
    if unfit := (*seen.managers_unfit, *seen.gateways_unfit):
        against.append(f"not fit and warm: {', '.join(sorted(set(unfit)))}")
    return against


class Prover:
    """Proves one pool well, again and again. `slots`: how many the first proof saw; later ones must see as many."""

    def __init__(self, pool: Pool, say: Progress) -> None:
        self._pool = pool
        self._say = say
        self.slots = 0
        self._started: int | None = None  # how often a job had begun to run at the last proof

    async def prove(self, jobs: Jobs | None, within_s: float, *, unbroken: bool = False) -> Documents:
        """Wait until nothing speaks against the pool and (with `jobs`) jobs begin to run; return what the nodes say.

        `unbroken`: nothing was broken since the last proof, so that a job that has begun since then is good enough.

        Raises:
            Unwell: not within `within_s`.
        """
        began, spoken = time.time(), ""
        nudged = jobs is not None  # a pool that has just been brought up, and no other
        started = None if jobs is None else jobs.started()
        if unbroken and self._started is not None:
            started = self._started
        while True:  # ends with a pool that is well, or at the limit
            said = await documents(self._pool)
            against = objections(said)
            if not against:
                if not nudged:
                    await self._nudge()
                    nudged = True
                against = await self._unseen()
            if not against and jobs is not None and jobs.started() == started:
                against = ["; ".join(("no job has begun to run yet", *jobs.load.failures[-1:]))]
            if not against:
                self._started = None if jobs is None else jobs.started()
                return said
            text = "; ".join(against)
            if time.time() - began >= within_s:
                raise Unwell(text)
            if text != spoken:
                self._say(f"waiting: {text}")
            spoken = text
            await trio.sleep(self._pool.limits.look_s)

    async def _nudge(self) -> None:
        """Have every host send its ads: who was up before the managers were sends them again after five minutes."""
        for name in sorted({*names_of(self._pool, EXECUTE), *names_of(self._pool, SUBMIT)}):
            with contextlib.suppress(LabError):
                await self._pool.exec(name, ["condor_reconfig"], timeout_s=QUESTION_S_MAX)

    async def _unseen(self) -> list[str]:
        """Return what of the pool a user does not see through the address."""
        submit = names_of(self._pool, SUBMIT)[0]
        try:
            done = await self._pool.exec(submit, ["condor_status", "-af", "Name"], timeout_s=QUESTION_S_MAX)
        except LabError as error:
            return [str(error)]
        if done.returncode != 0:
            return [f"condor_status on {submit}: {(done.stderr or done.stdout).strip()[-200:] or 'no answer'}"]
        names = done.stdout.split()
        hosts = {name.partition("@")[2].partition(".")[0] for name in names}
        if lacking := set(names_of(self._pool, EXECUTE)) - hosts:
            return [f"no slot of {', '.join(sorted(lacking))} is seen"]
        if len(names) < self.slots:
            return [f"{len(names)} of {self.slots} slots are seen"]
        self.slots = len(names)
        return []
