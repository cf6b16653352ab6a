"""Apart: where each side of a partition serves, hosts of the other side go from the elected manager's collector.

Their ads would stay there for CLASSAD_LIFETIME, 15 minutes. The negotiator would try every submitter of theirs anew in
each cycle (seen: 50 s in the first, 9 s in each of the others), match their slots again and again, and charge their
users for it, as the other side does. Rule: only what this host can't reach is withdrawn, and only while some node of
the cluster is silent; who is withdrawn is asked for its ads as soon as it answers again, or all nodes are heard; a
schedd a moment later.

What no gateway can help: a startd or a schedd reads a request to its end before it does anything else. Where the cut
falls into a request of the other side's, it stands still until it gives up, 20 s later (seen: an ACTIVATE_CLAIM).
"""

import errno
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import structlog
import trio

from gateway.config.settings import Backend, Endpoint, Peer
from gateway.control.swaps import SwapAbandoned
from gateway.core.node import Node
from gateway.kernel.clock import boot_ms
from gateway.matchmaker import census, prime
from gateway.matchmaker.census import Ad, Key
from gateway.matchmaker.condor import ToolFailed
from gateway.matchmaker.invalidate import invalidate

LOOK_S = 0.2  # between two looks at who is heard
# A host of the same network answers within milliseconds. The kernel sends a lost SYN again after 1 s: too late here, so
# several connections are begun, one after the other, and any of them will do.
CONNECT_S = 0.8
TRIES = 3
TRY_AGAIN_S = 0.2
HOSTS_MAX = 128  # at once; each takes TRIES descriptors
QUERY_MS = 5_000
# While somebody is silent: hosts may follow one by one, and one that was given up wrongly is to be back soon. A manager
# that is merely dead costs these looks, and no more.
AGAIN_S_MIN, AGAIN_S_MAX = 2.0, 60.0
FAILED_AGAIN_S = 1.0  # a collector that gave no answer: until then its negotiator may stand still
ASKED_TIMES_MAX = 5  # what does not come then comes with its next update
ASK_AGAIN_S = 3.0

_UNREACHABLE = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ETIMEDOUT)
# "<10.77.0.31:9618?addrs=...>": src/condor_utils/condor_sinful.cpp. IPv6 addresses stand in brackets.
_SINFUL = re.compile(r"<(?:\[(?P<six>[0-9a-fA-F:]+)\]|(?P<four>[0-9.]+)):(?P<port>\d{1,5})(?P<rest>[?>].*)")


class Apart:
    """See this module's head. One for each backend whose managers serve on both sides of a partition.

    Args:
        silent_ms: a node that was not heard for so long is silent.
        restart: end the negotiator and start it again: it may wait for a host that does not answer any more.
    """

    def __init__(self, backend: Backend, me: Peer, silent_ms: int, restart: Callable[[], Awaitable[Any]]) -> None:
        self._own = next(server.endpoint for server in backend.servers if server.name == me.name)
        self._ours = frozenset(server.endpoint.host for server in backend.servers)
        self._silent_ms = silent_ms
        self._restart = restart
        self._withdrawn: dict[Key, Ad] = {}
        self._asked: Counter[str] = Counter()  # address -> how often, since it was withdrawn
        self._settled_s = 0.0  # when schedds may be asked
        self._log = structlog.get_logger().bind(matchmaker=backend.name)
        self.withdrawn_total = 0

    def status(self) -> dict[str, Any]:
        """Return what is withdrawn now, and how much ever was."""
        return {"ads_apart": len(self._withdrawn), "ads_apart_total": self.withdrawn_total}

    async def run(self, node: Node) -> None:
        """Watch who is heard, and act on it; ends by cancellation, with the leadership."""
        self._withdrawn.clear()
        was_silent, due_s, again_s = False, trio.current_time(), AGAIN_S_MIN
        while True:
            silent = self._somebody_is_silent(node)
            if silent != was_silent:
                was_silent, due_s, again_s = silent, trio.current_time(), AGAIN_S_MIN
                settles_ms = 0 if silent else max(prime.SETTLED_MS, 2 * self._silent_ms)
                self._settled_s = trio.current_time() + settles_ms / 1000
            if trio.current_time() >= due_s and (silent or self._withdrawn):
                try:
                    changed = await (self._look() if silent else self._ask_all())
                    again_s = AGAIN_S_MIN if changed else again_s
                    due_s = trio.current_time() + (again_s if silent else ASK_AGAIN_S)
                    again_s = min(2 * again_s, AGAIN_S_MAX)
                except ToolFailed as failure:
                    self._log.warning("apart.put-off", reason=str(failure))
                    due_s = trio.current_time() + FAILED_AGAIN_S
            await trio.sleep(LOOK_S)

    def _somebody_is_silent(self, node: Node) -> bool:
        now_ms = boot_ms()
        return any(
            now_ms - node.heard_ms.get(name, -self._silent_ms) >= self._silent_ms
            for name in node.voters
            if name != node.me
        )

    async def _look(self) -> bool:
        """Withdraw the ads of hosts that can't be reached, ask back who can be; return whether there was any such.

        Raises:
            ToolFailed: the collector gave no answer, or refused.
        """
        ads = await census.take(self._own, timeout_ms=QUERY_MS)
        hosts, before = _hosts_of(ads, self._ours), _hosts_of(self._withdrawn, self._ours)
        gone = await unreachable(hosts.keys() | before.keys())
        # Nobody at all: it is this host that is cut off, and an empty collector helps nobody.
        doomed = {endpoint: found for endpoint, found in hosts.items() if endpoint in gone}
        if len(doomed) == len(hosts):
            doomed = {}
        if doomed:
            await self._withdraw(doomed)
        back = {key: ad for endpoint, found in before.items() if endpoint not in gone for key, ad in found.items()}
        asked = await self._ask_back(back, ads)
        return asked or bool(doomed.keys() - before.keys())  # whoever sends to us, and can't be reached, comes again

    async def _withdraw(self, hosts: Mapping[Endpoint, Mapping[Key, Ad]]) -> None:
        chosen = {key: ad for found in hosts.values() for key, ad in found.items()}
        self._withdrawn |= chosen  # first: of many some may go before it fails, and are to come back
        for ad in chosen.values():
            self._asked.pop(ad.address, None)
        await invalidate(self._own, chosen, timeout_ms=QUERY_MS)
        self.withdrawn_total += len(chosen)
        self._log.warning("apart.withdrawn", hosts=sorted(map(str, hosts)), ads=len(chosen))
        try:
            await self._restart()
        except SwapAbandoned:
            self._log.info("apart.not-restarted")  # the leadership ends

    async def _ask_all(self) -> bool:
        """Have those that were withdrawn send their ads again: the network is whole.

        Raises:
            ToolFailed: the collector gave no answer.
        """
        return await self._ask_back(dict(self._withdrawn), await census.take(self._own, timeout_ms=QUERY_MS))

    async def _ask_back(self, wanted: Mapping[Key, Ad], there: Mapping[Key, Ad]) -> bool:
        """Have those of `wanted` that are not `there` send their ads again; return whether there were any."""
        lacking = {}
        for key, ad in wanted.items():
            # Of submitters and masters nobody knows whether there are any now: once is enough.
            times = ASKED_TIMES_MAX if key.kind in ("slot", "schedd") else 1
            if key not in there and self._asked[ad.address] < times:
                lacking[key] = ad
            else:
                self._withdrawn.pop(key, None)
        if not lacking:
            return False
        if trio.current_time() < self._settled_s:
            lacking = {key: ad for key, ad in lacking.items() if key.kind not in prime.SCHEDD_KINDS}
        startds = {ad.address for key, ad in lacking.items() if key.kind in ("slot", "startd")}
        schedds = {ad.address for key, ad in lacking.items() if key.kind in prime.SCHEDD_KINDS}
        if not lacking:
            return True  # they are asked later
        report = await prime.ask_for_updates(startds, schedds)
        self._asked.update({ad.address for ad in lacking.values()})
        self._log.info("apart.asked", asked=report.asked, failed=len(report.failed), lacking=len(lacking))
        return True


def _hosts_of(ads: Mapping[Key, Ad], ours: frozenset[str]) -> dict[Endpoint, dict[Key, Ad]]:
    """Return the ads by where their owners listen; managers, and who is reached by CCB alone, left out."""
    found: dict[Endpoint, dict[Key, Ad]] = {}
    for key, ad in ads.items():
        endpoint = endpoint_of(ad.address)
        if endpoint is not None and endpoint.host not in ours:
            found.setdefault(endpoint, {})[key] = ad
    return found


def endpoint_of(address: str) -> Endpoint | None:
    """Return where a daemon's address leads to; None where that can't be tried: behind CCB, or no address at all."""
    found = _SINFUL.match(address)
    if found is None or "CCBID=" in found["rest"]:
        return None
    return Endpoint(found["six"] or found["four"], int(found["port"]))


async def unreachable(endpoints: Iterable[Endpoint]) -> frozenset[Endpoint]:
    """Return those to which no connection can be had; a host that refuses one is reached."""
    left = set(endpoints)
    limit = trio.CapacityLimiter(HOSTS_MAX)

    async def try_one(endpoint: Endpoint) -> None:
        async with limit:
            if await _is_reached(endpoint):
                left.discard(endpoint)

    async with trio.open_nursery() as nursery:
        for endpoint in tuple(left):
            nursery.start_soon(try_one, endpoint)
    return frozenset(left)


async def _is_reached(endpoint: Endpoint) -> bool:
    reached = False

    async def connect(after_s: float) -> None:
        nonlocal reached
        await trio.sleep(after_s)
        family = trio.socket.AF_INET6 if ":" in endpoint.host else trio.socket.AF_INET
        with trio.socket.socket(family, trio.socket.SOCK_STREAM) as connection:
            try:
                await connection.connect((endpoint.host, endpoint.port))
            except OSError as error:
                if error.errno in _UNREACHABLE:
                    return
        reached = True
        nursery.cancel_scope.cancel()

    with trio.move_on_after(CONNECT_S):
        async with trio.open_nursery() as nursery:
            for number in range(TRIES):
                nursery.start_soon(connect, number * TRY_AGAIN_S)
    return reached
