"""The lab's network: one bridge in a namespace of its own, one cable to each host. Never the machine's own network.

Everything is made by name in network namespaces whose names begin with `cglab-`, so leftovers can be told.
"""

from collections.abc import Sequence
from pathlib import Path

import trio

from gateway.lab.errors import LabError
from gateway.lab.topology import SWITCH, Host, Topology

NAMESPACES = Path("/run/netns")
COMMAND_S_MAX = 30

# Pairs of ports that do not hear each other. The family bridge sees every frame, ARP as well.
SWITCH_RULES = """\
table bridge lab {
    set cut {
        type ifname . ifname
    }
    chain forward {
        type filter hook forward priority filter; policy accept;
        iifname . oifname @cut drop
    }
}
"""


async def command(argv: list[str], *, input_text: str = "", what: str) -> str:
    """Run a command on the machine and return its output.

    Raises:
        LabError: it is not there, it failed, or it took longer than `COMMAND_S_MAX`.
    """
    try:
        with trio.fail_after(COMMAND_S_MAX):
            done = await trio.run_process(
                argv, stdin=input_text.encode(), capture_stdout=True, capture_stderr=True, check=False
            )
    except FileNotFoundError as error:
        raise LabError(f"{what} needs the command {argv[0]!r}: install the packages iproute2 and nftables") from error
    except trio.TooSlowError as error:
        raise LabError(f"{what} took longer than {COMMAND_S_MAX} s") from error
    if done.returncode != 0:
        raise LabError(f"{what} failed: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout.decode(errors="replace")


def namespace_path(topology: Topology, host: str) -> Path:
    """The file that stands for the network namespace of `host`."""
    return NAMESPACES / topology.namespace(host)


def cabling(topology: Topology) -> str:
    """What `ip -batch` must do inside the switch's namespace."""
    lines = ["link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0", "link set br0 up"]
    for host in topology.hosts:
        namespace = topology.namespace(host.name)
        lines += [
            f"link add {host.name} type veth peer name eth0 address {host.mac} netns {namespace}",
            f"link set {host.name} master br0 up",
        ]
    return "\n".join(lines) + "\n"


async def build(topology: Topology) -> None:
    """Make the switch, the cables and the hosts' interfaces.

    Raises:
        LabError: this kernel or this process may not.
    """
    names = [topology.namespace(name) for name in (SWITCH, *(host.name for host in topology.hosts))]
    making = "".join(f"netns add {name}\n" for name in names)
    await command(["ip", "-batch", "-"], input_text=making, what="making network namespaces")
    switch = topology.namespace(SWITCH)
    await command(["ip", "-n", switch, "-batch", "-"], input_text=cabling(topology), what="making the lab's switch")
    await command(
        ["ip", "netns", "exec", switch, "nft", "-f", "-"], input_text=SWITCH_RULES, what="making the switch's filter"
    )
    async with trio.open_nursery() as nursery:
        for host in topology.hosts:
            nursery.start_soon(_configure, topology.namespace(host.name), _interfaces(topology, host))


def _interfaces(topology: Topology, host: Host) -> str:
    """What `ip -batch` must do on a host. Duplicate address detection would delay an IPv6 address by a second."""
    flag = " nodad" if topology.ip_version == 6 else ""
    return f"link set lo up\naddr add {host.address}/{topology.prefix_length} dev eth0{flag}\nlink set eth0 up\n"


async def _configure(namespace: str, setting: str) -> None:
    await command(["ip", "-n", namespace, "-batch", "-"], input_text=setting, what=f"configuring {namespace!r}")


async def set_link(topology: Topology, host: str, *, up: bool) -> None:
    """Plug or pull the cable of `host`: it sees its carrier go."""
    switch = topology.namespace(SWITCH)
    state = "up" if up else "down"
    await command(
        ["ip", "-n", switch, "link", "set", topology.host(host).name, state],
        what=f"setting the link of {host!r} {state}",
    )


async def set_cut(topology: Topology, one: str, other: str, *, cut: bool) -> None:
    """Drop every frame between two hosts, or carry them again. Both keep their carrier and all other neighbours."""
    one, other = topology.host(one).name, topology.host(other).name
    if one == other:
        raise LabError(f"{one!r} cannot be cut off from itself: name two hosts")
    await _cut(topology, f"{one} . {other}, {other} . {one}", cut=cut)


async def set_partition(topology: Topology, half: Sequence[str], *, cut: bool) -> None:
    """Drop every frame between `half` and all other hosts, or carry them again; both ways, all in one step."""
    inside = [topology.host(name).name for name in half]
    outside = [host.name for host in topology.hosts if host.name not in inside]
    if not inside or not outside:
        raise LabError("a partition has two sides: name some of the hosts, not all")
    pairs = [f"{one} . {other}, {other} . {one}" for one in inside for other in outside]
    await _cut(topology, ", ".join(pairs), cut=cut)


async def mend(topology: Topology) -> None:
    """Carry frames between all hosts again; cables that were pulled stay so."""
    await _switch_rules(topology, "flush set bridge lab cut\n")


async def _cut(topology: Topology, pairs: str, *, cut: bool) -> None:
    verbs = ["add element"] if cut else ["add element", "delete element"]  # healing what is not cut is no error
    await _switch_rules(topology, "".join(f"{verb} bridge lab cut {{ {pairs} }}\n" for verb in verbs))


async def _switch_rules(topology: Topology, rules: str) -> None:
    argv = ["ip", "netns", "exec", topology.namespace(SWITCH), "nft", "-f", "-"]
    await command(argv, input_text=rules, what="changing what the lab's switch carries")
