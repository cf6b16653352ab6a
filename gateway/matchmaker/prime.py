"""Prime: fill the collectors of the standbys, and bring the leader's own up to date, by asking the pool's daemons.

Rule: no ad is ever put into a collector by us in its owner's place. A copy would overwrite whatever its owner has sent
meanwhile (on a busy pool: every second time), and lose the private attributes that no query shows: the schedd's
capability, the right to administrate. So the owners are asked to send, and the leader's collector forwards as always:
- a startd sends every slot's ad, private ads included, 1 s after an empty CA_UPDATE_MACHINE_AD
  (condor_update_machine_ad; src/condor_startd.V6/command.cpp, caUpdateMachineAd). It leaves two attributes in the
  machine's ads that mean nothing: Command and, empty, OfflineUniverses;
- a schedd sends its own ad and its submitters' after RESCHEDULE (condor_reschedule), at most every SCHEDD_MIN_INTERVAL
  (5 s). It tells the negotiator as well, so it is asked only where silence would do harm: where its ad or a submitter's
  is missing, and, after a switch, where the collector knows of no idle job of it (the negotiator passes over a
  submitter with IdleJobs = 0; src/condor_negotiator.V6/matchmaker.cpp, negotiateWithGroup). Any other old ad of a
  schedd serves: the negotiator asks the schedd itself what it has.
Both need WRITE, which HTCondor's recommended configuration gives to every authenticated host of the pool. The one
exception are condor_master's ads, which nothing asks for: they are copied to the standby alone, and only where missing.
"""

import functools
from collections.abc import Collection, Iterable, Mapping

import msgspec
import trio

from gateway.config.settings import Endpoint
from gateway.matchmaker import census
from gateway.matchmaker.census import Ad, Census, Comparison, Key
from gateway.matchmaker.condor import ToolFailed, run_tool

# A census: 20 ms of a small pool, 1 s of 10,000 slots; 4 to 9 s in a guest without hardware virtualisation, whose
# standbys would never be warm if it were given up before.
QUERY_MS = 15_000
# A standby's may take three times as long as ours took just now, and this long in any case: one that hangs must not
# keep the others cold.
STANDBY_QUERY_MS_MIN = 3_000
ASK_MS = 3_000  # one daemon: 15 ms; one that does not answer must not hold the others up for longer
ASKED_AT_ONCE = 4  # tools running at the same time: a manager has other things to do
POLL_MS = 700  # between two looks: a census costs 20 ms of CPU for each collector
STARTD_AGAIN_MS = 2_500  # a startd answers after 1 s; one whose update was rejected (old session) needs asking again
SCHEDD_AGAIN_MS = 6_000  # SCHEDD_MIN_INTERVAL and a bit
# Where nodes that did not hear one another do so again, one gateway may let the address go and one manager its
# negotiator: 0.2 to 0.8 s later (measured). A schedd that is asked before that asks the negotiator in its turn, by way
# of the gateway that lets go: it hears nothing more of it, and answers nobody for a minute (seen: condor_q gave up). A
# startd asks nobody, and for what it does not tell at once nobody is charged.
SETTLED_MS = 2_000
NAMES_MAX = 20  # of what is lacking, in a report

_STARTD_KINDS = ("slot", "startd")
SCHEDD_KINDS = ("schedd", "submitter")
# An ad with nothing in it, as condor_update_machine_ad wants it: the startd skips MyType.
_EMPTY_UPDATE = b'MyType = "Machine"\n'


class AskReport(msgspec.Struct, frozen=True, kw_only=True):
    """What became of asking daemons to send their ads."""

    asked: int
    failed: Mapping[str, str]  # address -> why


class PrimeReport(msgspec.Struct, frozen=True, kw_only=True):
    """What priming came to. `lacking` holds up to NAMES_MAX names for each standby that is not complete."""

    complete: Mapping[str, bool]  # standby -> whether it has all that is to be had: see `silent_owners`
    lacking: Mapping[str, tuple[str, ...]]
    unreachable: Mapping[str, str]  # standby -> why its collector could not be asked
    total: int  # ads of the leader
    rounds: int
    asked: int  # daemons, counting each time
    failed: Mapping[str, str]  # daemons that could not be asked: address -> why
    took_ms: int


class RefreshReport(msgspec.Struct, frozen=True, kw_only=True):
    """What bringing a collector up to date came to."""

    total: int  # daemons that had to be heard
    silent: tuple[str, ...]  # up to NAMES_MAX of those not heard since
    rounds: int
    asked: int
    failed: Mapping[str, str]
    took_ms: int


async def compare(leader: Endpoint, standby: Endpoint, *, timeout_ms: int = QUERY_MS) -> Comparison:
    """Return what the collector at `standby` lacks of the one at `leader`.

    Raises:
        ToolFailed: one of them gave no answer within `timeout_ms`.
    """
    ours = await census.take(leader, timeout_ms=timeout_ms)
    return census.compare(ours, await census.take(standby, timeout_ms=timeout_ms))


async def prime(
    leader: Endpoint, standbys: Mapping[str, Endpoint], *, timeout_ms: int, schedds_from_s: float = 0.0
) -> PrimeReport:
    """Make the collectors of `standbys` (name -> where it is) complete, as far as it can be done in `timeout_ms`.

    The leader's collector must be forwarding to them. Daemons are asked only for what is lacking, again and again,
    so that a pool in good order costs one look and no asking. Schedds are asked from `schedds_from_s` of trio's clock
    on: see SETTLED_MS.

    Raises:
        ToolFailed: the leader's own collector can't be asked.
    """
    asking = _Asking(schedds_from_s)
    started = trio.current_time()
    state: dict[str, Comparison | ToolFailed] = {}
    rounds = 0
    first: Census | None = None
    before: Census = {}
    while True:
        rounds += 1
        ours, limit_ms = await take_ours(leader)
        first = ours if first is None else first
        state = await _compare_all(ours, standbys, limit_ms)
        comparisons = {name: found for name, found in state.items() if isinstance(found, Comparison)}
        jobless = jobless_submitters(first, before, ours)
        before = ours
        lacking = frozenset[Key]().union(*map(needed, comparisons.values())) - jobless
        # Where looking alone takes that long, they are asked all the same, once.
        late = rounds > 1 and trio.current_time() - started >= timeout_ms / 1000
        if late or not lacking:  # an unreachable standby is not waited for: it is primed when it is back
            break
        await asking.ask({key: ours[key] for key in lacking})
        for name, found in comparisons.items():
            await _copy_masters(leader, standbys[name], found.missing)
        await trio.sleep(POLL_MS / 1000)
    silent = silent_owners(first, ours) | jobless
    return PrimeReport(
        complete={name: isinstance(found, Comparison) and needed(found) <= silent for name, found in state.items()},
        lacking={name: _names(needed(found)) for name, found in comparisons.items() if needed(found)},
        unreachable={name: str(found) for name, found in state.items() if isinstance(found, ToolFailed)},
        total=len(ours),
        rounds=rounds,
        asked=asking.asked,
        failed=asking.failed,
        took_ms=round((trio.current_time() - started) * 1000),
    )


async def refresh(collector: Endpoint, *, timeout_ms: int) -> RefreshReport:
    """Bring the collector of a new leader up to date: every startd is asked until it has been heard.

    For a switch after a silent death: updates that were sent into dead connections are lost, and their senders do
    not know. Heard means: an ad newer than the one that was there at the beginning. Of the schedds only those are asked
    that the negotiator would not ask: no idle job of theirs is known here.

    Raises:
        ToolFailed: the collector can't be asked.
    """
    asking = _Asking()
    started = trio.current_time()
    before = await census.take(collector, timeout_ms=QUERY_MS)
    asked_anyway = await _schedds_with_idle_jobs(collector)
    before = {key: ad for key, ad in before.items() if _must_be_heard(key, asked_anyway)}
    silent = dict(before)
    rounds = 0
    while silent and (not rounds or trio.current_time() - started < timeout_ms / 1000):
        rounds += 1
        await asking.ask(silent)
        await trio.sleep(POLL_MS / 1000)
        now = await census.take(collector, timeout_ms=QUERY_MS)
        silent = {key: ad for key, ad in silent.items() if key in now and not now[key].is_newer(ad)}
    return RefreshReport(
        total=len({ad.address for ad in before.values()}),
        silent=_names(silent),
        rounds=rounds,
        asked=asking.asked,
        failed=asking.failed,
        took_ms=round((trio.current_time() - started) * 1000),
    )


def needed(found: Comparison) -> frozenset[Key]:
    """Return what a standby must get before it could take over: what it has not, and slots of which it has old news.

    An old ad of a schedd or a submitter is none of it: see this module's head, and `refresh`.
    """
    return found.missing | {key for key in found.stale if key.kind in _STARTD_KINDS}


def silent_owners(first: Census, last: Census) -> frozenset[Key]:
    """Return the ads whose owners have sent nothing since `first`, though others have: nobody can get them now.

    An execute host that is dead, a submitter without jobs: their ads stay with the leader until CLASSAD_LIFETIME
    (15 minutes), and a standby that waited for them would be cold for as long. Where nobody has sent anything, asking
    itself does not work, and nobody is excused.
    """
    silent = frozenset(key for key, ad in last.items() if key in first and not ad.is_newer(first[key]))
    return silent if len(silent) < len(last) else frozenset()


def jobless_submitters(first: Census, before: Census, last: Census) -> frozenset[Key]:
    """Return the submitters whose schedd has sent its ads without theirs, by three looks: they have no jobs any more.

    Nobody can get their ads, nor needs them, and they stay with the leader until CLASSAD_LIFETIME. The schedd's own ad
    must have been there at the look before the last: those of its submitters follow it.
    """
    schedds = {
        key.name for key, ad in before.items() if key.kind == "schedd" and key in first and ad.is_newer(first[key])
    }
    return frozenset(
        key
        for key, ad in last.items()
        if key.kind == "submitter" and key.schedd in schedds and key in first and not ad.is_newer(first[key])
    )


def _must_be_heard(key: Key, asked_anyway: Collection[str]) -> bool:
    return key.kind == "slot" or (key.kind == "schedd" and key.name not in asked_anyway)


async def _schedds_with_idle_jobs(collector: Endpoint) -> frozenset[str]:
    """Return the names of the schedds that the negotiator asks in its next cycle, by the ads in `collector`."""
    query = [
        "condor_status",
        "-pool",
        str(collector),
        "-submitters",
        "-constraint",
        "IdleJobs > 0",
        "-af",
        "ScheddName",
    ]
    return frozenset((await run_tool(*query, timeout_ms=QUERY_MS)).splitlines())


async def ask_for_updates(startds: Collection[str], schedds: Collection[str]) -> AskReport:
    """Ask daemons, by their addresses ("<address:port?...>", the MyAddress of an ad), to send their ads now.

    They come through CONDOR_HOST: from a startd after 1 s, from a schedd at once or after SCHEDD_MIN_INTERVAL. Costs
    some 20 ms of CPU for each daemon. Raises nothing: who can't be asked is in the report.
    """
    failed: dict[str, str] = {}
    limit = trio.CapacityLimiter(ASKED_AT_ONCE)

    async def ask(address: str, *command: str, stdin: bytes = b"") -> None:
        async with limit:
            try:
                await run_tool(*command, stdin=stdin, timeout_ms=ASK_MS)
            except ToolFailed as error:
                failed[address] = str(error)

    async with trio.open_nursery() as nursery:
        for address in startds:
            tool = ("condor_update_machine_ad", "-name", address)
            nursery.start_soon(functools.partial(ask, address, *tool, stdin=_EMPTY_UPDATE))
        for address in schedds:
            nursery.start_soon(ask, address, "condor_reschedule", "-addr", address)
    return AskReport(asked=len(startds) + len(schedds), failed=failed)


class _Asking:
    """Who has been asked, and when: nobody is asked again before he can have answered."""

    def __init__(self, schedds_from_s: float = 0.0) -> None:
        self.asked = 0
        self.failed: dict[str, str] = {}
        self._schedds_from_s = schedds_from_s
        self._again: dict[str, float] = {}

    async def ask(self, ads: Mapping[Key, Ad]) -> None:
        startds = self._due(ads, _STARTD_KINDS, STARTD_AGAIN_MS)
        schedds: frozenset[str] = frozenset()
        if trio.current_time() >= self._schedds_from_s:
            schedds = self._due(ads, SCHEDD_KINDS, SCHEDD_AGAIN_MS)
        report = await ask_for_updates(startds, schedds)
        self.asked += report.asked
        self.failed = {address: why for address, why in self.failed.items() if address not in startds | schedds}
        self.failed |= report.failed

    def _due(self, ads: Mapping[Key, Ad], kinds: tuple[str, ...], again_ms: int) -> frozenset[str]:
        now = trio.current_time()
        addresses = frozenset(ad.address for key, ad in ads.items() if key.kind in kinds)
        due = frozenset(address for address in addresses if self._again.get(address, now) <= now)
        self._again |= dict.fromkeys(due, now + again_ms / 1000)
        return due


async def take_ours(leader: Endpoint) -> tuple[Census, int]:
    """Return what this host's own collector holds, and how many milliseconds a standby's may take to say the same.

    Raises:
        ToolFailed: no answer within QUERY_MS.
    """
    started = trio.current_time()
    ours = await census.take(leader, timeout_ms=QUERY_MS)
    return ours, standby_limit_ms(round((trio.current_time() - started) * 1000))


def standby_limit_ms(ours_took_ms: int) -> int:
    """Return how long a standby's census may take, by how long ours took."""
    return min(max(3 * ours_took_ms, STANDBY_QUERY_MS_MIN), QUERY_MS)


async def _compare_all(
    ours: Census, standbys: Mapping[str, Endpoint], limit_ms: int
) -> dict[str, Comparison | ToolFailed]:
    found: dict[str, Comparison | ToolFailed] = {}

    async def look(name: str, collector: Endpoint) -> None:
        try:
            found[name] = census.compare(ours, await census.take(collector, timeout_ms=limit_ms))
        except ToolFailed as error:
            found[name] = error

    async with trio.open_nursery() as nursery:
        for name, collector in standbys.items():
            nursery.start_soon(look, name, collector)
    return found


async def _copy_masters(leader: Endpoint, standby: Endpoint, missing: Iterable[Key]) -> None:
    """Copy the ads of condor_masters that `standby` lacks. They matter to condor_status -master and condor_off only."""
    names = sorted(key.name for key in missing if key.kind == "master")
    if not names:
        return
    constraint = f"stringListMember(Name, {census.quoted(','.join(names))}, ',')"
    query = ["condor_status", "-pool", str(leader), "-master", "-long", "-constraint", constraint]
    try:
        ads = await run_tool(*query, timeout_ms=QUERY_MS)
        advertise = ["condor_advertise", "-pool", str(standby), "-tcp", "-multiple", "UPDATE_MASTER_AD", "-"]
        await run_tool(*advertise, stdin=ads.encode(), timeout_ms=QUERY_MS)
    except ToolFailed:
        return  # it is still missing at the next look, and said so in the report


def _names(keys: Iterable[Key]) -> tuple[str, ...]:
    return tuple(f"{key.kind} {key.name}" for key in sorted(keys)[:NAMES_MAX])
