"""HTCondor's own high availability, as its manual sets it up: condor_had and condor_replication on each manager.

Pure text. Everything is at its default, HAD_CONNECTION_TIMEOUT (5 s) included; what the lab sets for every pool
(the negotiator's intervals, the slots) is the same here.
"""

from gateway.lab.topology import CONDOR_PORT, DOMAIN, Host, Kind, System, Topology

MANAGERS = 2  # the smallest pool that has a backup; more make condor_had slower, 12 s a manager at least

# "High Availability of the Central Manager" in HTCondor's manual, the sample with a shared port.
_MANAGER = """\
HAD_USE_SHARED_PORT = True
HAD_LIST = {managers}
REPLICATION_USE_SHARED_PORT = True
REPLICATION_LIST = {managers}
HAD_CONTROLLEE = NEGOTIATOR
MASTER_NEGOTIATOR_CONTROLLER = HAD
HAD_USE_REPLICATION = True
STATE_FILE = $(SPOOL)/Accountantnew.log
MASTER_HAD_BACKOFF_CONSTANT = 360
DAEMON_LIST = $(DAEMON_LIST) NEGOTIATOR HAD REPLICATION
HAD_DEBUG = D_FULLDEBUG
"""


def topology_of(other: Topology, name: str) -> Topology:
    """Return the pool to compare `other` with: the same execute hosts and slots, two managers, no gateway."""
    return Topology(
        name=name,
        managers=MANAGERS,
        gateways=0,
        execute=other.execute,
        slots=other.slots,
        suite=other.suite,
        system=System.HAD,
    )


def manager_config(topology: Topology, host: Host) -> str:
    """Return what a manager has beyond a plain pool's configuration; the same on all of them.

    Submit and execute hosts have only `CONDOR_HOST`, with every manager by name: what a virtual address spares.
    """
    assert host.kind is Kind.MANAGER, f"{host.name} is no manager"
    managers = ", ".join(f"{one.name}.{DOMAIN}:{CONDOR_PORT}" for one in topology.of_kind(Kind.MANAGER))
    return _MANAGER.format(managers=managers)
