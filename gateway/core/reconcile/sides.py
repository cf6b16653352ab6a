"""Sides: the histories of a merge, made comparable and put in order. The order never depends on who calls.

Rules 1, 2 and 12 of `gateway.core.reconcile`.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from gateway.core.reconcile.amounts import to_int
from gateway.wire.accountant import State

ACCOUNTANT: Final = "Accountant."
CUSTOMER: Final = "Customer."
RESOURCE: Final = "Resource."
LAST_UPDATE: Final = "LastUpdateTime"
SECONDS_MAX: Final = 2**53  # of a time in a file: beyond that a clock is not believed

LEASED: Final = ("PriorityFactor", "Ceiling", "Floor")
ATTRIBUTES: Final = (
    LAST_UPDATE,
    "Priority",
    *(f"{name}{suffix}" for name in LEASED for suffix in ("", "LeaseExpiration", "PreLeaseValue")),
    "ResourcesUsed",
    "WeightedResourcesUsed",
    "HierWeightedResourcesUsed",
    "UnchargedTime",
    "WeightedUnchargedTime",
    "AccumulatedUsage",
    "WeightedAccumulatedUsage",
    "BeginUsageTime",
    "LastUsageTime",
    "SubmitterLimit",
    "SubmitterShare",
    "RemoteUser",
    "SlotWeight",
    "StartTime",
    "MyType",
)


class NotContinued(ValueError):  # noqa: N818 (an answer to the operator)
    """A side is no continuation of the base: merging would invent or lose usage. The text says which and why."""


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One history: a parsed accounting file and what is known about it.

    Attributes:
        name: of its manager or file; for the report. No two sides have the same.
        state: key -> attribute -> expression, as `gateway.wire.accountant.read_untrusted` gives it.
        term: of the leader that wrote it; 0 where unknown. The highest wins conflicts.
        sequence: of its 107 record; 0 where it has none.
        birthdate_s: from the same record.
        ended_s: until when its negotiator ran, if that is known: its matches are charged until then.
        took_over_s: when its negotiator started on a copy of the base; None where it ran all along, or where the copy's
            LastUpdateTime was set to that moment first.
        dropped_s: Resource key -> until when it charged that claim of the base, where its log was watched.
    """

    name: str
    state: State
    term: int = 0
    sequence: int = 0
    birthdate_s: int = 0
    ended_s: int | None = None
    took_over_s: int | None = None
    dropped_s: Mapping[str, int] = {}

    @property
    def updated_s(self) -> int:
        """When its negotiator last charged, in seconds since 1970; 0 where it never did."""
        return seconds(self.state.get(ACCOUNTANT, {}).get(LAST_UPDATE))


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """What a merge must know of the pool's configuration. The defaults are HTCondor's.

    Attributes:
        half_life_s: PRIORITY_HALFLIFE.
        stale_s: how long at least a collector shows a slot that it can't hear any more: CLASSAD_LIFETIME (900 s), less
            the UPDATE_INTERVAL (300 s) since the slot was last heard. What is more is not proven, and not subtracted.
        lifetime_s: how long at most: CLASSAD_LIFETIME.
        extend_s_max: over how long a gap the survivor's matches are believed to have gone on.
        factor_default: DEFAULT_PRIO_FACTOR; factor_nice: NICE_USER_PRIO_FACTOR; factor_remote: REMOTE_PRIO_FACTOR.
        local_domain: ACCOUNTANT_LOCAL_DOMAIN; "" makes every user a local one.
        factor_groups: GROUP_PRIO_FACTOR_<group>, by group.
    """

    half_life_s: float = 86_400.0
    stale_s: int = 600
    lifetime_s: int = 900
    extend_s_max: int = 3_600
    factor_default: float = 1e3
    factor_nice: float = 1e10
    factor_remote: float = 1e7
    local_domain: str = ""
    factor_groups: Mapping[str, float] = {}


@functools.lru_cache(maxsize=512)
def seconds(text: str | None) -> int:
    """Return a time of a file; 0 where it is none, or out of all bounds."""
    found = to_int(text)
    return found if 0 <= found <= SECONDS_MAX else 0


def check(base: Side, sides: Sequence[Side], pool: Pool) -> None:
    """Refuse sides that do not continue the base (rule 1). Raises `NotContinued`."""
    for side in sides:
        if base.birthdate_s and side.birthdate_s and side.birthdate_s != base.birthdate_s:
            raise NotContinued(
                f"'{side.name}' is the history of another file than '{base.name}': "
                f"born {side.birthdate_s}, not {base.birthdate_s}"
            )
        if ACCOUNTANT in base.state and ACCOUNTANT not in side.state:
            raise NotContinued(f"'{side.name}' has no record of its last update: its negotiator never ran on it")
        if side.sequence and side.sequence < base.sequence:
            raise NotContinued(
                f"'{side.name}' is older than '{base.name}': compacted {side.sequence} times, not {base.sequence}"
            )
        if side.updated_s < base.updated_s - pool.extend_s_max:
            raise NotContinued(
                f"'{side.name}' is older than '{base.name}': last charged at {side.updated_s}, not {base.updated_s}"
            )


Spellings = dict[str, str]  # an attribute's name in lower case -> as it is spelled here


def spelled_alike(sides: Sequence[Side]) -> tuple[Spellings, Sequence[Side]]:
    """Find one spelling for each attribute, and spell all sides so: HTCondor takes no notice of their case.

    Of that of keys it does: ClassAds hash attribute names without case; the log's table hashes keys as they are
    (classad_log.h).
    """
    spelled = {name.lower(): name for name in ATTRIBUTES}
    names = set[str]().union(*(_names_in(side.state) for side in sides))
    for name in sorted(names):
        spelled.setdefault(name.lower(), name)
    if any(spelled[name.lower()] != name for name in names):
        sides = [msgspec.structs.replace(side, state=respelled(side.state, spelled)) for side in sides]
    return spelled, sides


def respelled(state: State, spelled: Spellings) -> State:
    """Return `state` with its attributes spelled so, the same object if they are; notes what is not known yet."""
    if all(spelled.setdefault(name.lower(), name) == name for name in _names_in(state)):
        return state
    return {
        key: {spelled.setdefault(name.lower(), name): value for name, value in ad.items()} for key, ad in state.items()
    }


def _names_in(state: State) -> set[str]:
    return set[str]().union(*state.values())


def ranked(sides: Sequence[Side]) -> list[Side]:
    """Put the best first (rule 2): the higher term, then the later update, then the greater content."""
    return sorted(sides, key=functools.cmp_to_key(_compare), reverse=True)


def _compare(left: Side, right: Side) -> int:
    mine, theirs = (left.term, left.updated_s), (right.term, right.updated_s)
    if mine != theirs:
        return -1 if mine < theirs else 1
    by_content = _compare_states(left.state, right.state)
    if by_content:
        return by_content
    known, known_theirs = _known_of(left), _known_of(right)
    return (known > known_theirs) - (known < known_theirs)


def _known_of(side: Side) -> tuple[list[int], list[tuple[str, int]], str]:
    moments = [-1 if moment is None else moment for moment in (side.ended_s, side.took_over_s)]
    return [side.sequence, side.birthdate_s, *moments], sorted(side.dropped_s.items()), side.name


def _compare_states(left: State, right: State) -> int:
    """Order by the first key, in their order, at which the two differ; absence is the least."""
    for key in sorted(left.keys() | right.keys()):
        mine, theirs = left.get(key), right.get(key)
        if mine != theirs:
            if mine is None or theirs is None:
                return -1 if mine is None else 1
            return -1 if sorted(mine.items()) < sorted(theirs.items()) else 1
    return 0
