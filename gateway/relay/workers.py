"""The relay's workers: processes that share the listening ports; the kernel deals the clients out to them.

Rule: each is told everything, and lives, dies and is replaced by itself; no other one waits for it or notices.
"""

import os
import resource
import socket
from collections.abc import Callable, Iterable
from functools import partial

import trio

from gateway.config.settings import Endpoint
from gateway.relay.client import Relay, RelayProcess, run_relay
from gateway.relay.limits import fit, share
from gateway.relay.messages import Listener, Report, WhenDown

AUTO_WORKERS_MAX = 8  # 40 MiB each; eight carry more than the network cards that gateways have
DESCRIPTORS_MAX = 1 << 20  # where the limit is infinite: the kernel's own (fs.nr_open)


def workers_count(wanted: int) -> int:
    """Return how many processes `wanted` (0: as many as there are cores for us) means."""
    return wanted or min(AUTO_WORKERS_MAX, len(os.sched_getaffinity(0)))


def descriptors_limit() -> int:
    """Return how many descriptors one relay process may have: it raises its own limit as far as it is allowed to."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return DESCRIPTORS_MAX if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS_MAX)


class Workers:
    """All relay processes of a node, `count` of them; `relays` has each with its events and its last report.

    Args:
        count: how many processes.
        spawn: as for `Relay`.
        on_report: told of each report, with the number of its worker.
    """

    def __init__(
        self,
        count: int,
        spawn: Callable[[socket.socket], RelayProcess] | None = None,
        on_report: Callable[[int, Report], None] | None = None,
    ) -> None:
        self.relays = tuple(
            Relay(spawn, None if on_report is None else partial(on_report, number)) for number in range(count)
        )
        self.descriptors = descriptors_limit()  # of each
        self.configured: tuple[tuple[Listener, ...], ...] = ((),) * count  # what each may have

    def configure(self, listeners: Iterable[Listener]) -> None:
        """Let the workers listen on exactly these, each with its share of the limits, cut to its descriptors.

        REFUSE listeners are the first one's alone: they are closed and opened all the time, and a connect that another
        process accepts on its way to being closed would not be refused.

        Raises `ValueError` where the set does not fit into one message.
        """
        listeners = tuple(listeners)
        count = len(self.relays)
        self.configured = tuple(
            fit(
                [
                    share(listener, count)
                    for listener in listeners
                    if number == 0 or listener.when_down is not WhenDown.REFUSE
                ],
                self.descriptors,
            )
            for number in range(count)
        )
        for relay, mine in zip(self.relays, self.configured, strict=True):
            relay.configure(mine)

    def route(self, route: str, server: Endpoint | None, epoch: int, drain_ms: int = 0) -> None:
        """As `Relay.route`, to all of them."""
        for relay in self.relays:
            relay.route(route, server, epoch, drain_ms)

    def clients_max(self, listener: str) -> int:
        """Return how many connections, or flows, of `listener` all workers together carry."""
        return sum(
            mine.flows_max if mine.protocol == "udp" else mine.connections_max
            for configured in self.configured
            for mine in configured
            if mine.name == listener
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep them running until cancelled; started when the first of them has been told everything."""
        first = trio.Event()

        async def run_one(relay: Relay) -> None:
            async with trio.open_nursery() as nursery:
                await nursery.start(run_relay, relay)
                first.set()

        async with trio.open_nursery() as nursery:
            for relay in self.relays:
                nursery.start_soon(run_one, relay)
            await first.wait()
            task_status.started()
