"""HTCondor's configuration files for each host of a lab, as text. Pure.

Two files a host: what makes HTCondor run in a network namespace at all, and what an administrator would write. The
second is what `condor-gateway condor-config` prints: on submit and execute hosts where the matchmaker is and how to
trust it, and nothing else, ever.
"""

import msgspec

from gateway.config import load
from gateway.config.settings import OnPartition
from gateway.lab import cluster
from gateway.lab.measure import had
from gateway.lab.topology import DOMAIN, Host, Kind, System, Topology, Updates
from gateway.matchmaker.nodefile import SESSION_NAME, SESSION_S
from gateway.matchmaker.pool_config import HostRole, pool_of, render

LAB_FILE = "/etc/condor/config.d/00-lab.config"
POOL_FILE = "/etc/condor/config.d/50-pool.config"
SIGNING_KEY_FILE = "/etc/condor/passwords.d/POOL"

# A namespace is not a machine. Nothing here has to do with high availability.
_LAB = """\
# The machine's sysctls are not this host's to set.
ENABLE_KERNEL_TUNING = False
PREEN =
DISCARD_SESSION_KEYRING_ON_STARTUP = False
BASE_CGROUP =
ENABLE_IPV4 = {ipv4}
ENABLE_IPV6 = {ipv6}
NETWORK_INTERFACE = {address}
UID_DOMAIN = {domain}
FILESYSTEM_DOMAIN = {domain}
DEFAULT_DOMAIN_NAME = {domain}
# What measurements read: times to the millisecond in every daemon's log and in every job's.
ALL_DEBUG = D_SUB_SECOND
MAX_DEFAULT_LOG = 200 Mb
DEFAULT_USERLOG_FORMAT_OPTIONS = ISO_DATE SUB_SECOND
DAEMON_LIST = {daemons}
"""

_EXECUTE = """\
NUM_CPUS = {slots}
MEMORY = {memory}
NUM_SLOTS = {slots}
NUM_SLOTS_TYPE_1 = {slots}
SLOT_TYPE_1 = cpus=1, memory=128
SLOT_TYPE_1_PARTITIONABLE = False
START = True
SUSPEND = False
PREEMPT = False
KILL = False
WANT_SUSPEND = False
RUNBENCHMARKS = False
STARTD_COMPUTE_AVAIL_STATS = False
# What measurements read of it is when the collector was told of a slot: at no lower level does a log say so.
STARTD_DEBUG = D_FULLDEBUG
# Every job needs a match of its own: what is measured is the matchmaker, not the reuse of claims.
CLAIM_WORKLIFE = 0
"""

_UDP = """\
UPDATE_COLLECTOR_WITH_TCP = False
"""

_SECURITY = """\
use SECURITY : recommended_v9_0
"""

# Measured: after a switch of collectors a resumed security session is unknown and the update that it carries is
# lost; with sessions this short clients authenticate afresh instead, and no update was lost.
_MANAGER = f"""\
COLLECTOR.{SESSION_NAME} = {SESSION_S}
"""

_NEGOTIATOR = """\
NEGOTIATOR_ARGS = -sock negotiator
NEGOTIATOR_INTERVAL = 1
NEGOTIATOR_CYCLE_DELAY = 0
NEGOTIATOR_MIN_INTERVAL = 0
"""

_DAEMONS = {
    Kind.MANAGER: "MASTER SHARED_PORT COLLECTOR",
    Kind.SUBMIT: "MASTER SHARED_PORT SCHEDD",
    Kind.EXECUTE: "MASTER SHARED_PORT STARTD",
}


def lab_config(topology: Topology, host: Host) -> str:
    """What a host in a namespace needs to run HTCondor. The matchmaker does not appear in it."""
    text = _LAB.format(
        ipv4=topology.ip_version == 4,
        ipv6=topology.ip_version == 6,
        address=host.address,
        domain=DOMAIN,
        daemons=_DAEMONS[host.kind],
    )
    if topology.updates is Updates.UDP and host.kind in (Kind.SUBMIT, Kind.EXECUTE):
        text += _UDP
    if host.kind is Kind.EXECUTE:
        text += _EXECUTE.format(slots=topology.slots, memory=128 * topology.slots)
    return text


def pool_config(topology: Topology, host: Host) -> str:
    """What an administrator writes on a host of this kind."""
    if topology.system is System.OURS:
        return _ours(topology, host)
    if host.kind is not Kind.MANAGER:
        return f"CONDOR_HOST = {topology.condor_host}\n{_SECURITY}"
    # A manager never points at the virtual address: it might then talk to another manager, or to nobody.
    own = "$(FULL_HOSTNAME)"
    match topology.system:
        case System.HAD:
            text = f"CONDOR_HOST = {topology.condor_host}\n{_SECURITY}{_NEGOTIATOR}{had.manager_config(topology, host)}"
        case _:
            text = f"CONDOR_HOST = {own}\n{_SECURITY}{_NEGOTIATOR}"
            if host == topology.hosts[0]:
                text += "DAEMON_LIST = $(DAEMON_LIST) NEGOTIATOR\n"
    return text


def _ours(topology: Topology, host: Host) -> str:
    """What `condor-gateway condor-config` prints for this host; below it what measurements need, on managers."""
    # What it does in a partition is nothing to HTCondor; a file of two peers must say it.
    decided = msgspec.structs.replace(topology, on_partition=topology.on_partition or OnPartition.HOLD)
    settings = load(cluster.gateway_config(decided), "gateway.cfg", {}).require()
    node = host.name if host.kind is Kind.MANAGER else None
    text = render(settings, pool_of(settings, None), HostRole(host.kind), node=node)
    return f"{text}\n{_NEGOTIATOR}{_MANAGER}" if host.kind is Kind.MANAGER else text


def signing_key_file(key: bytes) -> bytes:
    """The pool's signing key as HTCondor keeps it: XORed with a constant, which hides nothing.

    The key is written in hexadecimal first: HTCondor ends a key of this name at its first zero byte.
    """
    return bytes(byte ^ b"\xde\xad\xbe\xef"[place % 4] for place, byte in enumerate(key.hex().encode()))
