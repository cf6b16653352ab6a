"""Check of times: the periods of a peers section bear on each other, and on how long connections are held.

A time that was not written counts with its default; one that could not be read is passed over.
"""

from collections.abc import Callable

from gateway.config.diagnostics import Reporter
from gateway.config.keywords import SECTIONS
from gateway.config.tree import Section, Tree
from gateway.config.values import format_ms, read_value

LEASE_HEARTBEATS_MIN = 3  # one may be lost and the next one late before a healthy leader loses its lease


def lease_outlives_heartbeats(tree: Tree, report: Reporter) -> None:
    """A lease outlives the next heartbeat, and should outlive the loss of one."""
    for section in tree.all("peers"):
        heartbeat_ms, lease_ms = _time_ms(section, "heartbeat"), _time_ms(section, "lease")
        written = section.first("lease") or section.first("heartbeat")
        if heartbeat_ms is None or lease_ms is None or written is None:
            continue
        given = written.argument("time")
        at = given.word if given is not None else written.word
        told = f"lease {format_ms(lease_ms)} at a heartbeat of {format_ms(heartbeat_ms)}"
        wanted_ms = _lease_wanted_ms(heartbeat_ms)
        why = ", three heartbeats" if wanted_ms == LEASE_HEARTBEATS_MIN * heartbeat_ms else ""
        longer = f"make it at least {format_ms(wanted_ms)}{why}"
        if lease_ms - lease_margin_ms(lease_ms) <= heartbeat_ms:
            report.error(at, f"{told} ends before it can be renewed: {longer}")
        elif lease_ms < wanted_ms:
            report.warning(at, f"{told} may end when one packet is lost: {longer}")


def guard_speaks_before_the_lease_ends(tree: Tree, report: Reporter) -> None:
    """The guard tells of a frozen process while its lease still keeps others from taking over."""
    for section in tree.all("peers"):
        dead_ms, lease_ms = _time_ms(section, "guard-dead-time"), _time_ms(section, "lease")
        written = section.first("guard-dead-time")
        if dead_ms is None or lease_ms is None or written is None:
            continue
        if dead_ms >= lease_ms:
            report.warning(
                written.arguments["time"][0].word,
                f"guard-dead-time {format_ms(dead_ms)}: the lease of {format_ms(lease_ms)} has ended by then, and "
                "the guard has nothing to tell: make it shorter than the lease",
            )


def holding_outlasts_an_election(tree: Tree, report: Reporter) -> None:
    """A held connection waits for a new leader, who can't come before the old one's lease is over."""
    peers = tree.first("peers")
    lease = peers.first("lease") if peers else None
    given_lease = lease.argument("time") if lease else None
    if given_lease is None or not isinstance(given_lease.value, int):
        return
    for section in tree.all("backend"):
        queue = section.first("timeout queue")
        given = queue.argument("time") if queue else None
        if given is not None and isinstance(given.value, int) and given.value <= given_lease.value:
            report.warning(
                given.word,
                f"{section.subject()}: connections are held for {format_ms(given.value)}, but no election ends within "
                f"the lease of {format_ms(given_lease.value)}: hold them longer",
            )


TIME_RULES: tuple[Callable[[Tree, Reporter], None], ...] = (
    lease_outlives_heartbeats,
    guard_speaks_before_the_lease_ends,
    holding_outlasts_an_election,
)


def _time_ms(section: Section, keyword: str) -> int | None:
    """Return the time that a peers section says after `keyword`, or its default; None where it could not be read."""
    statement = section.first(keyword)
    if statement is None:
        argument = SECTIONS["peers"].keywords[keyword].arguments[0]
        assert argument.default is not None
        default = read_value(argument, argument.default)
        assert isinstance(default, int)
        return default
    given = statement.argument("time")
    if given is None:
        return None
    assert isinstance(given.value, int)
    return given.value


def lease_margin_ms(lease_ms: int) -> int:
    """Return how long before the end of its lease a leader stops: `gateway.core.timing` has the same figure."""
    return max(10, lease_ms // 20)


def _lease_wanted_ms(heartbeat_ms: int) -> int:
    """Return the least lease in which one heartbeat may be lost, and the next one late by half of one."""
    return max(LEASE_HEARTBEATS_MIN * heartbeat_ms, heartbeat_ms * 5 // 2 + lease_margin_ms(0))
