"""The gateway's configuration file and cluster key for a lab, as text. Pure: it writes what a site would write."""

from gateway.lab.topology import (
    CONDOR_PORT,
    DOMAIN,
    PEER_PORT,
    Kind,
    Topology,
    bracketed,
)

CONFIG_FILE = "/etc/condor-gateway/gateway.cfg"
KEY_FILE = "/etc/condor-gateway/cluster.key"
LOG_FILE = "/var/log/condor-gateway.log"
STATE_DIR = "/var/lib/condor-gateway"

HEARTBEAT = "50ms"
LEASE = "300ms"

_TEXT = """\
global
    cluster {cluster}
    key-file {key_file}
    state-dir {state_dir}
    log stdout format json

peers lan
    heartbeat {heartbeat}
    lease {lease}
{on_partition}{peers}

address pool-vip
    ip {virtual_address}/{bits} dev eth0
    holder {holders}

frontend matchmaker
    bind pool-vip:{port} proto tcp,udp
{limits}    default_backend managers

backend managers
    balance elected
    forward {forward}
    option condor-check
    timeout connect 2s
    default-server check inter 100ms fall 3 rise 2
{servers}
    negotiator on-elected
    warm-standby on
    replicate accounting
"""


def gateway_config(topology: Topology) -> str:
    """The one file of all nodes. Its order is the order of preference: gateways and managers as they are numbered."""
    gateways, managers = topology.of_kind(Kind.GATEWAY), topology.of_kind(Kind.MANAGER)
    peers = [f"    peer {one.name} {bracketed(one.address)}:{PEER_PORT} {one.kind}" for one in (*gateways, *managers)]
    servers = [f"    server {host.name} {bracketed(host.address)}:{CONDOR_PORT}" for host in managers]
    return _TEXT.format(
        cluster=topology.name,
        key_file=KEY_FILE,
        state_dir=STATE_DIR,
        heartbeat=HEARTBEAT,
        lease=LEASE,
        on_partition=f"    on-partition {topology.on_partition}\n" if topology.on_partition else "",
        peers="\n".join(peers),
        virtual_address=topology.virtual_address,
        bits=32 if topology.ip_version == 4 else 128,
        holders=" ".join(host.name for host in gateways),
        port=CONDOR_PORT,
        limits=_limits(topology),
        forward=f"{topology.forward} transparent" if topology.transparent else topology.forward,
        servers="\n".join(servers),
    )


def _limits(topology: Topology) -> str:
    """Return the lines of the frontend that say what each client may."""
    lines = ""
    if topology.maxconn_source:
        lines += f"    maxconn-per-source {topology.maxconn_source}\n"
    if topology.rate_source is not None:
        lines += f"    rate-per-source {topology.rate_source}\n"
    return lines


def key_file(key: bytes) -> str:
    """The cluster key as `condor-gateway keygen` writes it. `key` is 32 bytes."""
    assert len(key) == 32, f"a cluster key has 32 bytes, not {len(key)}"
    return f"key 1 {key.hex()}\nactive 1\n"


def hosts_file(topology: Topology) -> str:
    """`/etc/hosts` of every host: the lab has no name server."""
    lines = ["127.0.0.1 localhost" if topology.ip_version == 4 else "::1 localhost"]
    lines += [f"{host.address} {host.name}.{DOMAIN} {host.name}" for host in topology.hosts]
    return "\n".join(lines) + "\n"
