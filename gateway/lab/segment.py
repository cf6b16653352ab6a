"""A small lab for the address alone: two gateways, a witness, a client and a bystander on one switch, no HTCondor.

Made of network namespaces named as every lab's, so that `lab down` finds it after a crash. Touches nothing else.
"""

import contextlib
import os
import subprocess
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
import trio

from gateway.lab import process, teardown
from gateway.lab.errors import LabError
from gateway.lab.network import NAMESPACES, command
from gateway.lab.process import Process
from gateway.lab.topology import NAME, NETWORK, PEER_PORT, PREFIX, PREFIX_LENGTH, SWITCH, VIRTUAL_ADDRESS

GATEWAYS = ("gw1", "gw2")
WITNESS, CLIENT, BYSTANDER = "w1", "client", "bystander"
_LAST_BYTES = {"gw1": 91, "gw2": 92, WITNESS: 61, CLIENT: 50, BYSTANDER: 52}
HOSTS = tuple(_LAST_BYTES)
DEVICE = "eth0"
VRRP = 112  # RFC 9568 §5.1.1.4
DISK_BYTES = "128m"  # logs and state of a few hours

# Pairs of ports: `cut` carries no frame, `mute` no heartbeat of either system, and `loss` drops some of these.
_SWITCH_RULES = f"""\
table bridge lab {{
    set cut {{
        type ifname . ifname
    }}
    set mute {{
        type ifname . ifname
    }}
    chain loss {{
    }}
    chain forward {{
        type filter hook forward priority filter; policy accept;
        iifname . oifname @cut drop
        iifname . oifname @mute udp dport {PEER_PORT} drop
        iifname . oifname @mute ip protocol {VRRP} drop
        udp dport {PEER_PORT} jump loss
        ip protocol {VRRP} jump loss
    }}
}}
"""
# A gateway that forwarded would carry what the bystander asks of it to the other one; an address of its own must not
# depend on what the machine's first namespace has set. Only the namespace's own settings are written.
_GATEWAY_SYSCTLS = ("net.ipv4.ip_forward=0",)

Pair = tuple[str, str]


class Host(msgspec.Struct, frozen=True):
    """One host; its name is also that of its port on the switch."""

    name: str

    @property
    def ip(self) -> str:
        """Its own address."""
        return f"{NETWORK}.{_LAST_BYTES[self.name]}"

    @property
    def mac(self) -> str:
        """Its Ethernet address, as other labs' hosts have them."""
        return f"02:63:67:00:00:{_LAST_BYTES[self.name]:02x}"


class Segment:
    """The hosts and their switch. `up` makes them, `down` removes everything; both may be called by name again."""

    def __init__(self, name: str) -> None:
        if not NAME.fullmatch(name):
            raise LabError(
                f"{name!r} cannot name a lab: use a lower-case letter, then up to 15 lower-case letters or digits"
            )
        self.name = name
        self.folder = teardown.lab_folder(name)
        self._children: list[subprocess.Popen[bytes]] = []

    def namespace(self, host: str) -> str:
        """The name of the network namespace of `host`, which may be the switch."""
        return f"{PREFIX}-{self.name}-{host}"

    async def up(self) -> None:
        """Make the switch and the hosts.

        Raises:
            LabError: not root, such a lab is up, or this kernel may not. Nothing is left behind then.
        """
        if os.geteuid() != 0:
            raise LabError("the lab needs root, for network namespaces: run this as root")
        if teardown.exists(self.name):
            raise LabError(
                f"lab {self.name!r} is up already, or left over: end it with "
                f"'condor-gateway lab down --name {self.name}'"
            )
        try:
            await self._make()
        except BaseException:
            await self.down()
            raise

    @contextlib.asynccontextmanager
    async def standing(self) -> AsyncIterator[None]:
        """Have the segment up while the block runs."""
        await self.up()
        try:
            yield
        finally:
            await self.down()

    async def _make(self) -> None:
        await trio.to_thread.run_sync(lambda: self.folder.mkdir(parents=True))
        await command(
            ["mount", "-t", "tmpfs", "-o", f"mode=755,size={DISK_BYTES}", "condor-gateway-lab", str(self.folder)],
            what="mounting the lab's disk",
        )
        names = [self.namespace(host) for host in (SWITCH, *HOSTS)]
        making = "".join(f"netns add {name}\n" for name in names)
        await command(["ip", "-batch", "-"], input_text=making, what="making network namespaces")
        switch = self.namespace(SWITCH)
        await command(["ip", "-n", switch, "-batch", "-"], input_text=self._cabling(), what="making the lab's switch")
        await self._nft(_SWITCH_RULES, "making the switch's filter")
        for host in map(Host, HOSTS):
            await self._configure(host)

    def _cabling(self) -> str:
        lines = ["link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0", "link set br0 up"]
        for host in map(Host, HOSTS):
            peer = f"peer name {DEVICE} address {host.mac} netns {self.namespace(host.name)}"
            lines += [f"link add {host.name} type veth {peer}", f"link set {host.name} master br0 up"]
        return "\n".join(lines) + "\n"

    async def _configure(self, host: Host) -> None:
        lines = ["link set lo up", f"addr add {host.ip}/{PREFIX_LENGTH} dev {DEVICE}", f"link set {DEVICE} up"]
        if host.name in GATEWAYS:
            # What the bystander asks must be answered without a question of the gateway's own.
            stranger = Host(BYSTANDER)
            lines.append(f"neigh replace {stranger.ip} lladdr {stranger.mac} dev {DEVICE} nud permanent")
            await self.exec(host.name, ["sysctl", "-qw", *_GATEWAY_SYSCTLS])
        text = "\n".join(lines) + "\n"
        namespace = self.namespace(host.name)
        await command(["ip", "-n", namespace, "-batch", "-"], input_text=text, what=f"configuring {host.name!r}")

    async def down(self) -> None:
        """End every process on the segment and remove all of it; what hangs is waited for, up to a minute."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 60):
            await teardown.remove(self.name)
            for child in self._children:
                await trio.to_thread.run_sync(child.wait)
            self._children.clear()

    # ---- programs

    async def exec(self, host: str, argv: Sequence[str]) -> str:
        """Run a short command in the network of `host` and return its output; raise `LabError` where it fails."""
        entering = ["ip", "netns", "exec", self.namespace(host), *argv]
        return await command(entering, what=f"running {argv[0]!r} on {host!r}")

    def start(self, host: str, argv: Sequence[str], log: Path, *, pipe: bool = False) -> subprocess.Popen[bytes]:
        """Start a program in the network of `host`; its errors, and its output unless `pipe`, go to `log`."""
        with open(log, "ab") as file:
            child = subprocess.Popen(
                ["ip", "netns", "exec", self.namespace(host), *argv],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipe else file,
                stderr=file,
                start_new_session=True,
            )
        self._children = [one for one in self._children if one.poll() is None]  # collects those that have ended
        self._children.append(child)
        return child

    def processes(self, host: str) -> list[Process]:
        """Every live process whose network is that of `host`."""
        key = process.namespace_key(NAMESPACES / self.namespace(host))
        return [found for found, _ in process.in_namespaces("net", {key})] if key else []

    async def holders(self) -> list[str]:
        """The gateways that have the address on their device now."""
        found = []
        for host in GATEWAYS:
            argv = ["ip", "-n", self.namespace(host), "-o", "-4", "address", "show", "dev", DEVICE]
            shown = await command(argv, what=f"looking at the addresses of {host!r}")
            if f" {VIRTUAL_ADDRESS}/" in shown:
                found.append(host)
        return found

    # ---- faults of the network

    async def set_link(self, host: str, *, up: bool) -> None:
        """Plug or pull the cable of `host`: it sees its carrier go."""
        state = "up" if up else "down"
        argv = ["ip", "-n", self.namespace(SWITCH), "link", "set", host, state]
        await command(argv, what=f"setting the link of {host!r} {state}")

    async def cut(self, pairs: Sequence[Pair], *, heartbeats_only: bool = False) -> None:
        """Drop what goes from the first to the second of each pair, all of it or the heartbeats; in one step."""
        elements = ", ".join(f"{one} . {other}" for one, other in pairs)
        await self._nft(f"add element bridge lab {'mute' if heartbeats_only else 'cut'} {{ {elements} }}\n", "cutting")

    async def heal(self) -> None:
        """Carry everything again."""
        await self._nft("flush set bridge lab cut\nflush set bridge lab mute\n", "healing")

    async def lose(self, percent: int) -> None:
        """Drop so many of a hundred heartbeats between any two hosts, at random."""
        rule = f"add rule bridge lab loss numgen random mod 100 < {percent} drop\n" if percent else ""
        await self._nft(f"flush chain bridge lab loss\n{rule}", "losing heartbeats")

    async def _nft(self, rules: str, what: str) -> None:
        argv = ["ip", "netns", "exec", self.namespace(SWITCH), "nft", "-f", "-"]
        await command(argv, input_text=rules, what=what)
