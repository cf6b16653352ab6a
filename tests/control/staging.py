"""Staging: how a test brings a manager to a moment that lasts no time otherwise, and tells when all is settled."""

from collections.abc import Awaitable, Callable

import trio
from managers import Manager, Managers, caught_up, until

from gateway.matchmaker.journal import Lead, Store


class Gate:
    """Holds the first write of `chosen` kind of what a manager leads, as a slow disk does, until it is opened."""

    def __init__(self, manager: Manager, chosen: Callable[[Lead], bool]) -> None:
        self.reached = trio.Event()
        self.passed = trio.Event()
        self._open = trio.Event()
        self._chosen = chosen
        self._put = store_of(manager).put_lead
        replace_put_lead(manager, self._put_lead)

    async def _put_lead(self, lead: Lead) -> None:
        if not self.reached.is_set() and self._chosen(lead):
            self.reached.set()
            await self._open.wait()
            await self._put(lead)
            self.passed.set()
        else:
            await self._put(lead)

    async def open(self) -> None:
        """Let the write be done, and wait for that."""
        self._open.set()
        await self.passed.wait()


def store_of(manager: Manager) -> Store:
    return manager.accounting._store


def replace_put_lead(manager: Manager, put_lead: Callable[[Lead], Awaitable[None]]) -> None:
    store_of(manager).put_lead = put_lead


async def led(managers: Managers, name: str, *followers: str) -> Manager:
    """Start all, elect one, and wait until the others have what it has."""
    await managers.start()
    leader = await managers.elect(name, *followers)
    leader.writer.charge("alice@x", 100.0)
    await followed(leader, *followers)
    return leader


async def followed(leader: Manager, *followers: str) -> None:
    for follower in followers:
        await until(lambda follower=follower: caught_up(leader, follower), f"{follower} has all of {leader.name}'s")


async def settled(leader: Manager, *returned: Manager) -> None:
    """Wait until those who returned follow, and keep nothing aside: all of theirs is in the leader's history."""
    await followed(leader, *(one.name for one in returned))
    await until(
        lambda: (
            not leader.accounting.status()["waiting"]
            and not any(one.accounting.status()["pending"] for one in returned)
        ),
        f"all is in {leader.name}'s history",
    )


async def merged(leader: Manager) -> None:
    """Wait until one history was merged; none may be given up."""
    status = leader.accounting.status
    await until(lambda: status()["merges_total"] or status()["unmerged"], f"{leader.name} merges")
    assert status()["unmerged"] == []


async def resumed(managers: Managers, manager: Manager, term: int | None) -> None:
    """Put another process in the place of a manager's, which goes on with `term`; the negotiator is left alone."""
    if manager._scope is not None:
        manager._scope.cancel()
    manager.accounting = manager._make()
    await manager.accounting.resume(term)
    manager._scope = trio.CancelScope()
    await managers._nursery.start(manager._run, manager._scope)


def by_hand(manager: Manager, amount: float) -> None:
    """Run a negotiator without condor-gateway, as an administrator may."""
    manager.writer.start()
    manager.writer.charge("alice@x", amount)
    manager.writer.stop()
