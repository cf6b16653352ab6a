"""Facts of a good host, made up: a test spoils the one that it is about."""

import msgspec

from gateway.config import load
from gateway.doctor.checks import CHECKS
from gateway.doctor.condor import Knob
from gateway.doctor.facts import Clock, Device, DeviceAddress, Facts, StateFolder
from gateway.doctor.findings import Severity, examine
from gateway.lab import cluster
from gateway.lab.topology import Topology
from gateway.matchmaker.nodefile import ROLE_FILE

NOW_S = 1_800_000_000.0
OWN = {"gw1": "10.77.0.91", "cm1": "10.77.0.11", "cm2": "10.77.0.12"}
GOOD_CONDOR = {
    "CONDOR_HOST": "cm1.lab.internal",
    "COLLECTOR_HOST": "cm1.lab.internal",
    "FULL_HOSTNAME": "cm1.lab.internal",
    "HOSTNAME": "cm1",
    "DAEMON_LIST": "MASTER COLLECTOR",
    "NEGOTIATOR_ARGS": "-sock negotiator",
    "NEGOTIATOR_INTERVAL": "5",
    "COLLECTOR.SEC_DEFAULT_SESSION_DURATION": "2",
    "TCP_FORWARDING_HOST": "",
    "BIND_ALL_INTERFACES": "true",
    "NETWORK_INTERFACE": "10.77.0.11",
    "ALLOW_DAEMON": "condor@* condor_pool@*",
    "ALLOW_WRITE": "*",
    "ALLOW_READ": "*",
}


def settings_of(text=None, **topology):
    return load(text or cluster.gateway_config(Topology(**topology)), "gateway.cfg", {}).require()


def knobs(**changed):
    """HTCondor's configuration on a good manager; a value may come with the place where it was set."""
    made = {}
    for name, value in (GOOD_CONDOR | {name.replace("__", "."): value for name, value in changed.items()}).items():
        if value is not None:
            said, where = value if isinstance(value, tuple) else (value, "/etc/condor/config.d/50-pool.config, line 3")
            made[name] = Knob(value=said, where=where)
    return made


def elected(daemons):
    return daemons, f"{ROLE_FILE}, line 9"


def device(name, *addresses, **changed):
    made = []
    for address in addresses:
        ip, _, length = address.partition("/")
        made.append(DeviceAddress(ip=ip, prefix_length=int(length)))
    return Device(name=name, addresses=tuple(made), **changed)


def devices(*made):
    loop = device("lo", "127.0.0.1/8", loopback=True)
    return {one.name: one for one in (loop, *made)}


STATUS = {
    "pid": 1,
    "warnings": [],
    "reloads": {"failed_total": 0, "failure": None},
    "peers": {"gw2": {"heard_ms_ago": 12}},
    "elections": {
        "pool-vip": {"kind": "address", "leader": "gw1", "candidates": {"gw1": {"fit": True}, "gw2": {"fit": True}}}
    },
    "addresses": {"pool-vip": {"held": False, "claimed_by": {}}},
    "heartbeats": {"refused": {"replayed": 3}},
}


def good(node="gw1", *, text=None, forward="proxy", **changed):
    """The facts of a good host; `changed` replaces some of them."""
    settings = settings_of(text, forward=forward)
    me = settings.peer(node)
    known = {
        "host": node,
        "program": "1.0",
        "digest": "d1",
        "settings": settings,
        "me": me,
        "state": StateFolder(exists=True, file_system="ext4", free_bytes=1 << 40),
        "kernel": (6, 18),
        "clock": Clock(unix_s=NOW_S, synchronised=True),
        "sysctls": {"net/ipv4/conf/all/arp_ignore": "0", "net/ipv4/conf/eth0/rp_filter": "0"},
        "devices": devices(device("eth0", f"{me.endpoint.host}/24")),
        "ruleset": (),
        "realtime": "",
        "descriptors": 524_288,
        "conntrack": (100, 262_144),
        "condor": knobs() if node.startswith("cm") else knobs(CONDOR_HOST="10.77.0.100"),
        "status": STATUS,
        "changes": (),
    }
    return Facts(**(known | changed))


def found(facts, name):
    """What one check says: (severity, sentence) of each finding; None: it did not apply."""
    check = [one for one in CHECKS if one.name == name]
    assert len(check) == 1, f"no check {name!r}"
    findings = examine(facts, check)
    if not findings:
        return None
    return [(one.severity, one.sentence, one.remedy) for one in findings]


def fine(facts, name):
    said = found(facts, name)
    assert said is not None, f"{name} did not look"
    return [severity for severity, _, _ in said] == [Severity.OK]


def said(facts, name, severity, *parts):
    """Whether a check found something of this gravity, with these words in its sentence or remedy."""
    findings = found(facts, name) or []
    return any(
        grave == severity and all(part in f"{told} | {remedy}" for part in parts) for grave, told, remedy in findings
    )


def changed(facts, **fields):
    return msgspec.structs.replace(facts, **fields)
