"""Identity: which peer of the file this host is. Reads no host name and no address itself: they are arguments.

The order is that of certainty: what the operator said, the host's name, an address that the host has.
"""

import ipaddress
from collections.abc import Iterable

from gateway.config.diagnostics import ConfigError, did_you_mean, listing, quote
from gateway.config.settings import Peer, Settings


def identify(settings: Settings, *, node: str | None, host_name: str, local_addresses: frozenset[str]) -> Peer:
    """Return the peer that this host is.

    Args:
        settings: the checked file.
        node: the name given with `--node`; None where none was given.
        host_name: the host's name, short or full; compared without regard to case.
        local_addresses: IP address literals that the host has.

    Raises:
        ConfigError: this host is none of the peers, or it may be several.
    """
    names = [peer.name for peer in settings.peers]
    if node is not None:
        if node not in names:
            hint = did_you_mean(node, names) or f": they are {listing(names, 'and')}"
            raise ConfigError(f"--node {quote(node)} is none of the peers{hint}")
        return settings.peer(node)
    for same in (_full, _short):
        found = [peer for peer in settings.peers if same(peer.name) == same(host_name)]
        if len(found) == 1:
            return found[0]
    local = {_canonical(address) for address in local_addresses}
    found = [peer for peer in settings.peers if _canonical(peer.endpoint.host) in local]
    if len(found) == 1:
        return found[0]
    if found:
        several = listing((peer.name for peer in found), "and")
        raise ConfigError(f"this host has the addresses of the peers {several}: say which it is with --node NAME")
    raise ConfigError(
        f"this host {quote(host_name)} is none of the peers {_described(settings.peers)}: "
        "add it to the file, or say which it is with --node NAME"
    )


def _described(peers: Iterable[Peer]) -> str:
    return ", ".join(f"{quote(peer.name)} ({peer.endpoint.host})" for peer in peers)


def _full(name: str) -> str:
    return name.lower().rstrip(".")


def _short(name: str) -> str:
    return _full(name).partition(".")[0]


def _canonical(address: str) -> str:
    """Return one spelling for an address, without a zone; what is no address stays as it is."""
    try:
        return str(ipaddress.ip_address(address.partition("%")[0]))
    except ValueError:
        return address
