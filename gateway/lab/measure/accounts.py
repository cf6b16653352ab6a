"""The accounting of a running lab: asked through the pool's own tools, edited as an administrator would.

Asks and edits only: what an answer means is in `userprio`, what is right in `audit`.
"""

import time
from collections.abc import Sequence

import msgspec
import trio

from gateway.lab.errors import LabError
from gateway.lab.measure import usage, userprio
from gateway.lab.measure.audit import Cut, Witnesses
from gateway.lab.measure.observe import Logs
from gateway.lab.measure.userprio import Edit, Prio
from gateway.lab.pool import Lab
from gateway.lab.topology import DOMAIN, Kind

ASK_S_MAX = 30.0
EDIT_S_MAX = 30.0  # condor_userprio gives up after 20 s
AGAIN_S = 0.5


class Edited(msgspec.Struct, frozen=True):
    """An edit that condor_userprio acknowledged at `at` (unix seconds: when the tool had ended)."""

    edit: Edit
    at: float


async def ask(lab: Lab, host: str, pool: str | None = None) -> Prio | None:
    """Return what condor_userprio says on `host` (of one manager's pool, where it is named); None: no answer."""
    there = ("-pool", pool) if pool else ()
    try:
        done = await lab.exec(host, [*userprio.ASK, *there], timeout_s=ASK_S_MAX)
    except LabError:
        return None
    return userprio.parse(done.stdout) if done.returncode == 0 else None


async def ask_until(lab: Lab, host: str, limit_s: float, pool: str | None = None) -> Prio | None:
    """Ask until there is an answer, for at most `limit_s`."""
    limit = time.time() + limit_s
    while True:  # ends with an answer, or at the limit
        found = await ask(lab, host, pool)
        if found is not None or time.time() >= limit:
            return found
        await trio.sleep(AGAIN_S)


async def edit(lab: Lab, manager: str, wanted: Edit) -> Edited:
    """Make an edit on a manager as root, by the negotiator that its own collector knows.

    Raises:
        LabError: condor_userprio refused, or did not end.
    """
    argv = [*wanted.argv, "-pool", f"{manager}.{DOMAIN}"]
    done = await lab.exec(manager, argv, timeout_s=EDIT_S_MAX)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise LabError(f"'condor_userprio {wanted.text}' was refused on {manager!r}: {said}")
    return Edited(wanted, time.time())


async def edit_until(lab: Lab, manager: str, wanted: Edit, limit_s: float) -> Edited:
    """Make an edit, again and again while the negotiator answers nobody; made twice it is the same.

    Raises:
        LabError: not within `limit_s`.
    """
    limit = time.time() + limit_s
    while True:  # ends when it is acknowledged, or at the limit
        try:
            return await edit(lab, manager, wanted)
        except LabError:
            if time.time() >= limit:
                raise
        await trio.sleep(AGAIN_S)


def missing(edits: Sequence[Edited], prio: Prio | None) -> tuple[str, ...] | None:
    """Return the edits that do not show; None where nobody answered."""
    return None if prio is None else tuple(one.edit.text for one in edits if not one.edit.shows_in(prio))


def witnesses(lab: Lab, read: Logs, ended: dict[str, float], cut: Cut | None = None) -> Witnesses:
    """Read every daemon's log. `read` should have no mark: claims that began long ago count too."""
    starts = read.condor(Kind.EXECUTE, "StartLog")
    texts = read.condor(Kind.MANAGER, "NegotiatorLog")
    return Witnesses(
        slots={host: usage.slots(text, f"{host}.{DOMAIN}") for host, text in starts.items()},
        matches={host: usage.matches(text) for host, text in texts.items()},
        cycles={host: usage.cycles(text) for host, text in texts.items()},
        ended=ended,
        cut=cut,
    )
