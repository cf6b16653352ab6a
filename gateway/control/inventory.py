"""Inventory: what each standby's collector holds beside the leader's, looked at from time to time, and put right.

Rule: a look costs less than a hundredth of a core, and nothing is taken from a standby unless this manager leads now.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import structlog
import trio

from gateway.config.settings import Endpoint, Server
from gateway.kernel.clock import boot_ms
from gateway.matchmaker import census
from gateway.matchmaker.census import Ad, Census, Key
from gateway.matchmaker.condor import ToolFailed, run_tool
from gateway.matchmaker.invalidate import LIFETIME_S, Withdrawals, invalidate
from gateway.matchmaker.prime import QUERY_MS, ask_for_updates, needed, take_ours
from gateway.matchmaker.probe import ProbeFailed, collector_instance

# One collector's census, measured on one of two shared cores: condor_status 24 ms and ours 2 ms of CPU at 110 ads,
# 55 ms and 8 ms at 2,010; its own collector 7 ms and 44 ms. So 3 collectors of 110 ads cost this host 85 ms, of 2,010
# ads 230 ms, and are looked at every 9 s and 24 s: 1 % of a core. A standby pays its collector's part alone.
TOOL_MS, TOOL_US_PER_AD, COLLECTOR_US_PER_AD = 25, 20, 20
SHARE = 100  # at most one hundredth of a core
PERIOD_MS_MIN = 5_000
PERIOD_MS_MAX = 120_000  # 13,000 ads; more cost more than a hundredth, but dead slots must go before they expire
CONFIRM_MS = 6_000  # something has gone, and one more look decides: a little more than what it must be gone for
PROBE_MS = 1_000
INVALIDATE_MS = 5_000
TRIED_MAX = census.ADS_MAX


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What one standby's collector held, beside the leader's, at one moment."""

    ads: Mapping[str, int]  # kind -> how many
    missing: int  # on the leader alone
    stale: int  # older than the leader's
    extra: int  # on the standby alone, but for those of its own host
    lacks: Mapping[str, int]  # kind -> how many are missing or stale
    at_ms: int  # boot clock


class Inventory:
    """Looks at the collectors of the standbys beside the leader's own.

    Args:
        leads: whether this manager leads at this moment, by its lease.
        lacks: told the name of a standby that lacks what it should have got by now, once for each such ad.
        shared_port: the own collector is behind condor_shared_port.
    """

    def __init__(
        self,
        own: Endpoint,
        leads: Callable[[], bool],
        lacks: Callable[[str], None],
        log: structlog.BoundLogger,
        *,
        shared_port: bool = True,
    ) -> None:
        self._own = own
        self._shared_port = shared_port
        self._leads = leads
        self._lacks = lacks
        self._log = log
        self._withdrawals = Withdrawals()
        self._looks: dict[str, Look] = {}
        self._ads: Mapping[str, int] = {}  # the leader's
        self._at_ms = 0
        self._late: dict[str, dict[Key, Ad]] = {}  # standby -> what it lacked at the last look, as the leader had it
        self._tried: dict[str, dict[Key, Ad]] = {}  # standby -> what `lacks` has been told of
        self._sooner = trio.Event()
        self.looks_total = 0
        self.failed_total = 0
        self.invalidated_total = 0

    def status(self) -> dict[str, Any]:
        """Return {"ads": {kind: n}, "looked_ms_ago": n} of the leader's own collector; empty before the first look."""
        if not self._at_ms:
            return {}
        return {"ads": dict(self._ads), "looked_ms_ago": boot_ms() - self._at_ms}

    def status_of(self, standby: str) -> dict[str, Any]:
        """Return the same of a standby's, with how many are missing, stale and extra there."""
        look = self._looks.get(standby)
        if look is None:
            return {}
        return {
            "ads": dict(look.ads),
            "missing": look.missing,
            "stale": look.stale,
            "extra": look.extra,
            "lacks": dict(look.lacks),
            "looked_ms_ago": boot_ms() - look.at_ms,
        }

    def sooner(self) -> None:
        """Look again soon: something has changed."""
        self._sooner.set()

    def forget(self) -> None:
        """Drop what was found: this manager leads no more."""
        self._looks.clear()
        self._late.clear()
        self._tried.clear()
        self._ads, self._at_ms = {}, 0

    async def run(self, standbys: Callable[[], Sequence[Server]]) -> None:
        """Look at the collectors of those that `standbys` names, again and again; ends by cancellation."""
        # The first moments of a new leader belong to its pool.
        await trio.sleep(PERIOD_MS_MIN / 1000)
        # What was seen under an earlier lease says nothing: others have led meanwhile.
        self._withdrawals = Withdrawals(await _lifetime_s())
        while True:
            try:
                await self._look(standbys())
            except (ToolFailed, ProbeFailed) as failure:
                self.failed_total += 1
                self._log.warning("collector.census-failed", reason=str(failure))
            waits_ms = period_ms(sum(self._ads.values()), len(self._looks))
            if self._withdrawals.to_confirm():
                waits_ms = min(waits_ms, CONFIRM_MS)
            await trio.sleep(PERIOD_MS_MIN / 1000)  # however much happens
            with trio.move_on_after((waits_ms - PERIOD_MS_MIN) / 1000):
                await self._sooner.wait()
            self._sooner = trio.Event()

    async def _instance(self) -> str:
        return await collector_instance(self._own, timeout_ms=PROBE_MS, shared_port=self._shared_port)

    async def _look(self, standbys: Sequence[Server]) -> None:
        """Take one look at the leader, then at each standby. The leader first: what comes between is no lack."""
        instance = await self._instance()
        now_s = time.time()
        ours, limit_ms = await take_ours(self._own)
        if await self._instance() != instance:
            return  # restarted meanwhile: which of the two did we count?
        await trio.to_thread.run_sync(self._withdrawals.look, instance, ours, now_s)
        self.looks_total += 1
        self._ads, self._at_ms = census.count_kinds(ours), boot_ms()
        for server in standbys:  # one after the other: this host has other things to do
            try:
                await self._look_at(server, ours, limit_ms)
            except ToolFailed as failure:  # dead or hung: its heartbeats tell sooner
                self.failed_total += 1
                self._log.info("standby.census-failed", standby=server.name, reason=str(failure))

    async def _look_at(self, server: Server, ours: Census, limit_ms: int) -> None:
        theirs = await census.take(server.endpoint, timeout_ms=limit_ms)
        host, now_s = server.endpoint.host, time.time()
        found, doomed = await trio.to_thread.run_sync(self._compare, ours, theirs, host, now_s)
        self._looks[server.name] = Look(
            ads=census.count_kinds(theirs),
            missing=len(found.missing),
            stale=len(found.stale),
            extra=len(found.extra),
            lacks=found.counts(),
            at_ms=boot_ms(),
        )
        await self._ask_for(server.name, found, ours, theirs)
        if doomed and self._leads() and server.endpoint != self._own:
            sent = await invalidate(server.endpoint, doomed, timeout_ms=INVALIDATE_MS)
            self.invalidated_total += sent
            names = [f"{key.kind} {key.name}" for key in sorted(doomed)[:5]]
            self._log.info("standby.ads-invalidated", standby=server.name, ads=sent, first=names)

    def _compare(
        self, ours: Census, theirs: Census, host: str, now_s: float
    ) -> tuple[census.Comparison, dict[Key, Ad]]:
        found = census.compare(ours, theirs, standby_host=host)
        return found, self._withdrawals.doomed(theirs, host, now_s)

    async def _ask_for(self, standby: str, found: census.Comparison, ours: Census, theirs: Census) -> None:
        """Have sent again what was lacking at the last look already, and has not come since. Each ad once.

        Priming leaves alone the schedds whose ads are old on a standby (see `prime`): here there is time for them.
        """
        lacking = {key: ours[key] for key in found.lacking}
        before, self._late[standby] = self._late.get(standby, {}), lacking
        tried = self._tried.setdefault(standby, {})
        overdue = {
            key: ad
            for key, ad in before.items()
            if key in lacking and (key not in theirs or ad.is_newer(theirs[key])) and tried.get(key) != ad
        }
        if not overdue:
            return
        if len(tried) + len(overdue) > TRIED_MAX:
            tried.clear()
        tried |= overdue
        self._log.info("standby.lacks", standby=standby, ads=len(overdue))
        to_prime = needed(found)
        if not to_prime.isdisjoint(overdue):
            self._lacks(standby)
        schedds = {ours[key].address for key in overdue if key not in to_prime and key.kind in ("schedd", "submitter")}
        await ask_for_updates((), schedds)


def period_ms(ads: int, standbys: int) -> int:
    """Return how long to wait after a look at the leader and `standbys` collectors of `ads` ads each."""
    cost_ms = (standbys + 1) * (TOOL_MS + ads * TOOL_US_PER_AD / 1000) + ads * COLLECTOR_US_PER_AD / 1000
    return round(min(max(cost_ms * SHARE, PERIOD_MS_MIN), PERIOD_MS_MAX))


async def _lifetime_s() -> int:
    try:
        said = await run_tool("condor_config_val", "-macro", f"$(CLASSAD_LIFETIME:{LIFETIME_S})", timeout_ms=QUERY_MS)
        return max(int(said), 1)
    except (ToolFailed, ValueError):  # an expression, or an HTCondor that is just being upgraded
        return LIFETIME_S
