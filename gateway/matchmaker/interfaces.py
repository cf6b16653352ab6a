"""Interfaces: does this host's HTCondor go together with the way on which the pool reaches it?

Rule: HTCondor is asked, and what does not fit is said; its configuration stays as the administrator has it.
"""

from collections.abc import Sequence
from fnmatch import fnmatch
from typing import Final

from gateway.matchmaker.condor import FALSE, ToolFailed, run_tool

ASK_MS_MAX: Final = 10_000  # as `discover`
# All have a default of HTCondor's own: "*", and True; "*" can't stand behind a colon here.
_INTERFACE, _BINDS_ALL = "$(NETWORK_INTERFACE)", "$(BIND_ALL_INTERFACES)"
_SHARED_PORT, _FAMILY_SESSION = "$(USE_SHARED_PORT)", "$(SEC_USE_FAMILY_SESSION)"


async def interface_hazards(own: str, virtual: Sequence[str]) -> list[str]:
    """Return what an operator should change in HTCondor's configuration on this host, a sentence each.

    `own` is the manager's own IP address, `virtual` those that come to the loopback device while it is elected. Empty
    also where HTCondor can't be asked: others say that.
    """
    interface, binds_all = await _values(_INTERFACE, _BINDS_ALL)
    return hazards(interface, binds_all, own, virtual)


async def deafness(virtual: Sequence[str]) -> str:
    """Return why HTCondor hears nothing of what `forward direct` sends to these addresses; "": it does."""
    (binds_all,) = await _values(_BINDS_ALL)
    return deaf(binds_all, virtual)


async def session_hazards() -> list[str]:
    """Return what an operator should change where this host's collector reaches others through relays on this host."""
    return family_sessions(*await _values(_SHARED_PORT, _FAMILY_SESSION))


async def _values(*questions: str) -> list[str]:
    """Return the values of HTCondor's configuration, "" for all where it can't be asked."""
    try:
        answer = await run_tool("condor_config_val", "-macro", *questions, timeout_ms=ASK_MS_MAX)
    except ToolFailed:
        answer = ""
    return [line.strip() for line in [*answer.splitlines(), *[""] * len(questions)][: len(questions)]]


def deaf(binds_all: str, virtual: Sequence[str]) -> str:
    """Return the same from the value of BIND_ALL_INTERFACES.

    Packets come with the pool's address as their target. A socket that is bound to another one never gets them: the
    kernel resets the client.
    """
    if binds_all.lower() not in FALSE:
        return ""
    return (
        f"HTCondor listens on one address of this host only (BIND_ALL_INTERFACES = {binds_all}) and never hears "
        f"what 'forward direct' sends to {' and '.join(virtual)}: set it to True and restart HTCondor"
    )


def family_sessions(shared_port: str, family_session: str) -> list[str]:
    """Return what is to be said of the values of USE_SHARED_PORT and SEC_USE_FAMILY_SESSION.

    Without a shared port a daemon takes every other on an address of this host for one of its own condor_master, the
    relay to the other managers' collectors too, and offers it the session that only those know: it is refused.
    """
    if shared_port.lower() not in FALSE or family_session.lower() in FALSE:
        return []
    return [
        f"without a shared port (USE_SHARED_PORT = {shared_port}) HTCondor takes the other managers' collectors, to "
        "which it comes by relays on this host, for daemons of its own, and offers them a session that they refuse: "
        "write SEC_USE_FAMILY_SESSION = False on this host"
    ]


def hazards(interface: str, binds_all: str, own: str, virtual: Sequence[str]) -> list[str]:
    """Return the same from the values of NETWORK_INTERFACE and BIND_ALL_INTERFACES.

    A daemon has the first address that fits NETWORK_INTERFACE, and the loopback device comes before all others. Seen
    with HTCondor 23.9.6: with "*" its IP_ADDRESS is the pool's address for as long as this manager is elected.
    """
    found = [reason] if (reason := deaf(binds_all, virtual)) else []
    taken = [ip for ip in virtual if any(fnmatch(ip, one) for one in interface.replace(",", " ").split())]
    if taken:
        found.append(
            f"HTCondor's daemons that start while this manager is elected would advertise {' and '.join(taken)} as "
            f"their own address (NETWORK_INTERFACE = {interface}): write NETWORK_INTERFACE = {own} on this host"
        )
    return found
