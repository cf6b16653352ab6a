"""Interfaces: does this host's HTCondor go together with the pool's address on the loopback device (`forward direct`)?

Rule: HTCondor is asked, and what does not fit is said; its configuration stays as the administrator has it.
"""

from collections.abc import Sequence
from fnmatch import fnmatch
from typing import Final

from gateway.matchmaker.condor import FALSE, ToolFailed, run_tool

ASK_MS_MAX: Final = 10_000  # as `discover`
# Both have a default of HTCondor's own, "*" and True; "*" can't stand behind a colon here.
_QUESTIONS: Final = ("$(NETWORK_INTERFACE)", "$(BIND_ALL_INTERFACES)")


async def interface_hazards(own: str, virtual: Sequence[str]) -> list[str]:
    """Return what an operator should change in HTCondor's configuration on this host, a sentence each.

    `own` is the manager's own IP address, `virtual` those that come to the loopback device while it is elected. Empty
    also where HTCondor can't be asked: others say that.
    """
    try:
        answer = await run_tool("condor_config_val", "-macro", *_QUESTIONS, timeout_ms=ASK_MS_MAX)
    except ToolFailed:
        return []
    interface, binds_all = [*answer.splitlines(), "", ""][:2]
    return hazards(interface.strip(), binds_all.strip(), own, virtual)


def hazards(interface: str, binds_all: str, own: str, virtual: Sequence[str]) -> list[str]:
    """Return the same from the values of NETWORK_INTERFACE and BIND_ALL_INTERFACES.

    A daemon has the first address that fits NETWORK_INTERFACE, and the loopback device comes before all others. Seen
    with HTCondor 23.9.6: with "*" its IP_ADDRESS is the pool's address for as long as this manager is elected.
    """
    found = []
    if binds_all.lower() in FALSE:
        found.append(
            f"HTCondor listens on one address of this host only (BIND_ALL_INTERFACES = {binds_all}) and never hears "
            f"what 'forward direct' sends to {' and '.join(virtual)}: set it to True and restart HTCondor"
        )
    taken = [ip for ip in virtual if any(fnmatch(ip, one) for one in interface.replace(",", " ").split())]
    if taken:
        found.append(
            f"HTCondor's daemons that start while this manager is elected would advertise {' and '.join(taken)} as "
            f"their own address (NETWORK_INTERFACE = {interface}): write NETWORK_INTERFACE = {own} on this host"
        )
    return found
