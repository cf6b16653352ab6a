"""Apart: where each side of a partition serves, hosts of the other side go from the elected manager's collector.

Their ads would stay there for CLASSAD_LIFETIME, 15 minutes. The negotiator would try every submitter of theirs anew in
each cycle (seen: 50 s in the first, 9 s in each of the others), match their slots again and again, and charge their
users for it, as the other side does. Rule: only what this host can't reach is withdrawn, and only while some node of
the cluster is silent; who is withdrawn is asked for its ads as soon as all nodes are heard again.
"""

import errno
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import structlog
import trio

from gateway.config.settings import Backend, Endpoint, Peer
from gateway.control.swaps import SwapAbandoned
from gateway.core.node import Node
from gateway.kernel.clock import boot_ms
from gateway.matchmaker import census
from gateway.matchmaker.census import Ad, Key
from gateway.matchmaker.condor import ToolFailed
from gateway.matchmaker.invalidate import invalidate
from gateway.matchmaker.prime import ask_for_updates

LOOK_S = 0.2  # between two looks at who is heard
# A host of the same network answers within milliseconds; the kernel sends a lost SYN again after 1 s.
CONNECT_S = 0.5
TRIES = 2
TRY_AGAIN_S = 0.3
CONNECTIONS_MAX = 64  # at once
QUERY_MS = 5_000
# While somebody is silent: hosts may follow one by one. A manager that is merely dead costs this, and no more.
AGAIN_S_MIN, AGAIN_S_MAX = 5.0, 60.0
ASKED_TIMES_MAX = 5  # after the heal; what does not come then comes with its next update
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
        self._log = structlog.get_logger().bind(matchmaker=backend.name)
        self.withdrawn_total = 0

    def status(self) -> dict[str, Any]:
        """Return what is withdrawn now, and how much ever was."""
        return {"ads_apart": len(self._withdrawn), "ads_apart_total": self.withdrawn_total}

    async def run(self, node: Node) -> None:
        """Watch who is heard, and act on it; ends by cancellation, with the leadership."""
        again_s = AGAIN_S_MIN
        due_s = trio.current_time()
        self._withdrawn.clear()
        while True:
            if not self._somebody_is_silent(node):
                again_s, due_s = AGAIN_S_MIN, trio.current_time()
                if self._withdrawn:
                    await self._ask_back()
            elif trio.current_time() >= due_s:
                if await self._look():
                    again_s = AGAIN_S_MIN
                due_s, again_s = trio.current_time() + again_s, min(2 * again_s, AGAIN_S_MAX)
            await trio.sleep(LOOK_S)

    def _somebody_is_silent(self, node: Node) -> bool:
        now_ms = boot_ms()
        return any(
            now_ms - node.heard_ms.get(name, -self._silent_ms) >= self._silent_ms
            for name in node.voters
            if name != node.me
        )

    async def _look(self) -> bool:
        """Withdraw the ads of hosts that can't be reached; return whether there were any."""
        try:
            ads = await census.take(self._own, timeout_ms=QUERY_MS)
        except ToolFailed as failure:
            self._log.warning("apart.not-looked", reason=str(failure))
            return False
        hosts = _hosts_of(ads, self._ours)
        gone = await unreachable(hosts)
        if not gone or len(gone) == len(hosts):
            return False  # nobody at all: it is this host that is cut off, and an empty collector helps nobody
        chosen = {key: ad for endpoint in gone for key, ad in hosts[endpoint].items()}
        try:
            await invalidate(self._own, chosen, timeout_ms=QUERY_MS)
        except ToolFailed as failure:
            self._log.warning("apart.not-withdrawn", reason=str(failure))
            return False
        self._withdrawn |= chosen
        self.withdrawn_total += len(chosen)
        self._log.warning("apart.withdrawn", hosts=sorted(map(str, gone)), ads=len(chosen))
        try:
            await self._restart()
        except SwapAbandoned:
            self._log.info("apart.not-restarted")  # the leadership ends
        return True

    async def _ask_back(self) -> None:
        """Have those that were withdrawn send their ads again: the network is whole."""
        wanted, self._withdrawn = self._withdrawn, {}
        for _ in range(ASKED_TIMES_MAX):
            startds = {ad.address for key, ad in wanted.items() if key.kind in ("slot", "startd")}
            schedds = {ad.address for key, ad in wanted.items() if key.kind in ("schedd", "submitter")}
            report = await ask_for_updates(startds, schedds)
            await trio.sleep(ASK_AGAIN_S)
            try:
                there = await census.take(self._own, timeout_ms=QUERY_MS)
            except ToolFailed as failure:
                self._log.warning("apart.not-looked", reason=str(failure))
                continue
            # Of submitters and masters nobody knows whether there are any now.
            wanted = {key: ad for key, ad in wanted.items() if key not in there and key.kind in ("slot", "schedd")}
            self._log.info("apart.asked", asked=report.asked, failed=len(report.failed), lacking=len(wanted))
            if not wanted:
                return


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
    limit = trio.CapacityLimiter(CONNECTIONS_MAX)

    async def try_one(endpoint: Endpoint) -> None:
        async with limit:
            if await _is_reached(endpoint):
                left.discard(endpoint)

    for attempt in range(TRIES):
        if attempt and left:
            await trio.sleep(TRY_AGAIN_S)
        async with trio.open_nursery() as nursery:
            for endpoint in tuple(left):
                nursery.start_soon(try_one, endpoint)
    return frozenset(left)


async def _is_reached(endpoint: Endpoint) -> bool:
    with trio.move_on_after(CONNECT_S):
        family = trio.socket.AF_INET6 if ":" in endpoint.host else trio.socket.AF_INET
        with trio.socket.socket(family, trio.socket.SOCK_STREAM) as connection:
            try:
                await connection.connect((endpoint.host, endpoint.port))
            except OSError as error:
                return error.errno not in _UNREACHABLE
            return True
    return False
