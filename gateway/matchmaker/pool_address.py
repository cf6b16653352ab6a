"""The negotiator's address as the pool sees it: the virtual one, so that tools reach it where they reach the collector.

Rule: the negotiator alone says so of itself. Master, collector and shared_port stay at the manager's own address.

HTCondor's own means, TCP_FORWARDING_HOST, makes every daemon of the host say so, and breaks it: the collector no
longer knows itself in COLLECTOR_HOST and sends its own ad to itself, blocking, for 20 s, one second after each start
and every COLLECTOR_UPDATE_INTERVAL after that (src/condor_collector.V6/collector.cpp, Config and sendCollectorAd:
addressPointsToMe; seen at 11 of 45 starts); each daemon greets condor_master, blocking, through the virtual address, so
that no collector starts before an election, and no election ends before a collector runs.

A daemon behind shared_port has its address from the file SHARED_PORT_DAEMON_AD_FILE (src/condor_io/
shared_port_endpoint.cpp, InitRemoteAddress; it adds its own `sock=`). The node gives the negotiator a file of its own.
"""

import msgspec

from gateway.config.settings import Backend, Endpoint, Settings
from gateway.matchmaker.condor import CondorHost

SUFFIX = ".condor-gateway"  # beside HTCondor's own file, in a folder that HTCondor's daemons read


class PoolAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Where the pool finds the negotiator, and how the negotiator is told."""

    virtual: Endpoint
    file: str  # absolute path, for SHARED_PORT_DAEMON_AD_FILE
    text: str  # of that file


def pool_address(settings: Settings, backend: Backend, own: Endpoint, host: CondorHost) -> PoolAddress | None:
    """Return how the negotiator of `host`, a manager at `own`, is to be found; None: at the manager's own address.

    That is so where no frontend leads to `backend`, and where HTCondor has no file for addresses behind shared_port.
    Without shared_port (USE_SHARED_PORT = False) nothing reads the file.
    """
    virtual = virtual_endpoints(settings, backend)
    if not virtual or not host.shared_port_ad.startswith("/"):
        return None
    return PoolAddress(
        virtual=virtual[0],
        file=host.shared_port_ad + SUFFIX,
        text=render(virtual, own, host.alias, host.full_hostname),
    )


def virtual_endpoints(settings: Settings, backend: Backend) -> tuple[Endpoint, ...]:
    """Return where `backend` is reached: the first TCP bind of each address family, IPv4 first as HTCondor has it."""
    addresses = {address.name: address for address in settings.addresses}
    found: dict[bool, Endpoint] = {}
    for frontend in settings.frontends:
        for bind in frontend.binds if frontend.backend == backend.name else ():
            endpoint = Endpoint(addresses[bind.address].ip, bind.port)
            if "tcp" in bind.protocols:
                found.setdefault(":" in endpoint.host, endpoint)
    return tuple(found[six] for six in sorted(found))


def render(virtual: tuple[Endpoint, ...], own: Endpoint, alias: str, network: str) -> str:
    """Return the text of the file: a ClassAd as condor_shared_port writes it.

    `own` is the manager's own address; `alias` its name, against which clients check a certificate (HOST_ALIAS). Who
    has `network` as PRIVATE_NETWORK_NAME takes the short way to `own`: by default that is each host's own name, so
    that tools on this host need no gateway, and nobody else is in that network.
    """
    assert virtual, "a pool without a virtual address has nothing to be put behind"
    addresses = "+".join(_dashed(endpoint) for endpoint in virtual)
    private = f"%3c{own}%3e"  # <address:port>, with the brackets escaped
    parameters = f"PrivAddr={private}&PrivNet={network}&addrs={addresses}&alias={alias}&noUDP"
    return (
        f'MyAddress = "<{virtual[0]}?{parameters}>"\n'
        # By which a daemon knows itself, whatever it says to others.
        f'SharedPortCommandSinfuls = "<{own}?alias={alias}>"\n'
    )


def _dashed(endpoint: Endpoint) -> str:
    """Return an address without colons (src/condor_utils/condor_sockaddr.cpp, to_ccb_safe_string)."""
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    return f"{host.replace(':', '-')}-{endpoint.port}"
