"""The hosts of a lab: names, addresses, roles. Pure values; nothing here touches the machine.

Every lab has the same addresses, of one IP version: each has a switch of its own, so several stand side by side.
"""

import enum
import functools
import re

import msgspec

from gateway.config.settings import Forward, OnPartition
from gateway.lab.errors import LabError

DOMAIN = "lab.internal"
NETWORK = "10.77.0"
PREFIX_LENGTH = 24
VIRTUAL_ADDRESS = f"{NETWORK}.100"
# IP version -> where the hosts' numbers go, as they are written: host 91 is 10.77.0.91 or fd77::91.
ADDRESSES = {4: f"{NETWORK}.{{}}", 6: "fd77::{}"}
PREFIX_LENGTHS = {4: PREFIX_LENGTH, 6: 64}
VIRTUAL_NUMBER = 100
CONDOR_PORT = 9618
PEER_PORT = 9619

MANAGERS_MAX = 9
GATEWAYS_MAX = 9  # .91 to .99; .100 is the virtual address
SUBMIT_MAX = 9  # .21 to .29
EXECUTE_MAX = 50  # .31 to .80
SLOTS_MAX = 64

# No hyphen: it parts the lab's name from the host's in the names of network namespaces.
NAME = re.compile(r"[a-z][a-z0-9]{0,15}")
PREFIX = "cglab"
SWITCH = "switch"

# Who submits jobs, on every host: name -> user id. The first has a home in the hosts' common tree.
USERS = {"physicist": 1000, "chemist": 1001, "biologist": 1002, "astronomer": 1003}


class System(enum.StrEnum):
    """What makes the matchmaker of the pool highly available."""

    OURS = "ours"  # condor-gateway
    HAD = "had"  # HTCondor's own condor_had and condor_replication
    PLAIN = "plain"  # nothing: one central manager


class Updates(enum.StrEnum):
    """How the pool's entities send their ads to the collector."""

    TCP = "tcp"
    UDP = "udp"


class Kind(enum.StrEnum):
    """What a host of the pool does."""

    MANAGER = "manager"
    GATEWAY = "gateway"
    SUBMIT = "submit"
    EXECUTE = "execute"


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """One host of a lab. `name` is also the name of its port on the lab's switch."""

    name: str
    kind: Kind
    address: str

    @property
    def mac(self) -> str:
        """Its Ethernet address: locally administered, the last byte the number that its IP address ends in."""
        return f"02:63:67:00:00:{int(re.split('[.:]', self.address)[-1]):02x}"


def _within(value: int, least: int, most: int, what: str) -> None:
    if not least <= value <= most:
        raise LabError(f"{value} {what}: a lab has {least} to {most}")


class Topology(msgspec.Struct, frozen=True, kw_only=True):
    """A lab as it was asked for.

    `managers`, `gateways` and `submit` count hosts; `slots` is the number of job slots of each of the `execute` hosts.
    The gateways of a system other than ours are not built. `on_partition` is what the gateway's file says; None:
    nothing. `ip_version` is 4 or 6, of everything. `transparent` is the word of `forward` of that name,
    `maxconn_source` and `rate_source` what the frontend allows each client (0: as many as all; None: what is usual).
    Limits are checked by `checked`.
    """

    name: str = "lab"
    managers: int = 3
    gateways: int = 2
    submit: int = 1
    execute: int = 2
    slots: int = 8
    forward: Forward = Forward.PROXY
    suite: str = "trixie"
    system: System = System.OURS
    on_partition: OnPartition | None = None
    ip_version: int = 4
    updates: Updates = Updates.TCP
    transparent: bool = False
    maxconn_source: int = 0
    rate_source: int | None = None

    def checked(self) -> "Topology":
        """Return itself.

        Raises:
            LabError: a name or a number that no lab can have.
        """
        if not NAME.fullmatch(self.name):
            raise LabError(
                f"{self.name!r} cannot name a lab: use a lower-case letter, then up to 15 lower-case letters or digits"
            )
        _within(self.managers, 1, MANAGERS_MAX, "managers")
        _within(self.gateways, 1 if self.system is System.OURS else 0, GATEWAYS_MAX, "gateways")
        _within(self.submit, 1, SUBMIT_MAX, "submit hosts")
        _within(self.execute, 1, EXECUTE_MAX, "execute hosts")
        _within(self.slots, 1, SLOTS_MAX, "slots on each execute host")
        if self.ip_version not in ADDRESSES:
            raise LabError(f"there is no IP version {self.ip_version}: a lab has 4 or 6")
        if self.transparent and self.forward is Forward.DIRECT:
            raise LabError("'forward direct' always lets managers see the clients' addresses: leave 'transparent' away")
        if self.ip_version != 4 and self.system is System.HAD:
            raise LabError("the lab's pool with HTCondor's own HAD speaks IPv4 alone: choose --ip-version 4")
        return self

    @property
    def hosts(self) -> tuple[Host, ...]:
        """Every host, managers first, then gateways, submit hosts, execute hosts."""
        gateways = self.gateways if self.system is System.OURS else 0
        return _hosts(self.ip_version, self.managers, gateways, self.submit, self.execute)

    def host(self, name: str) -> Host:
        """Return the host called `name`.

        Raises:
            LabError: there is none.
        """
        for host in self.hosts:
            if host.name == name:
                return host
        known = ", ".join(host.name for host in self.hosts)
        raise LabError(f"no host {name!r} in lab {self.name!r}: it has {known}")

    def of_kind(self, kind: Kind) -> tuple[Host, ...]:
        """The hosts of one kind, in order."""
        return tuple(host for host in self.hosts if host.kind is kind)

    @property
    def halves(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The hosts' names in two halves: of each kind the first ones, one more of an odd number, and the rest."""
        one: list[str] = []
        other: list[str] = []
        for kind in Kind:
            names = [host.name for host in self.of_kind(kind)]
            middle = (len(names) + 1) // 2
            one += names[:middle]
            other += names[middle:]
        return tuple(one), tuple(other)

    @property
    def virtual_address(self) -> str:
        """The pool's address."""
        return ADDRESSES[self.ip_version].format(VIRTUAL_NUMBER)

    @property
    def prefix_length(self) -> int:
        """Of the hosts' own addresses."""
        return PREFIX_LENGTHS[self.ip_version]

    @property
    def condor_host(self) -> str:
        """What the pool's entities have as their CONDOR_HOST: where they look for the matchmaker."""
        match self.system:
            case System.OURS:
                return bracketed(self.virtual_address)
            case System.PLAIN:
                return bracketed(self.hosts[0].address)
            case System.HAD:
                return ",".join(f"{host.name}.{DOMAIN}" for host in self.of_kind(Kind.MANAGER))

    def namespace(self, host: str) -> str:
        """The name of the network namespace of `host`, which may be `SWITCH`."""
        return f"{PREFIX}-{self.name}-{host}"


def bracketed(address: str) -> str:
    """An address as it stands before a port and in HTCondor's configuration: IPv6 in brackets."""
    return f"[{address}]" if ":" in address else address


@functools.cache
def _hosts(ip_version: int, managers: int, gateways: int, submit: int, execute: int) -> tuple[Host, ...]:
    def some(kind: Kind, prefix: str, base: int, count: int) -> list[Host]:
        return [
            Host(name=f"{prefix}{number}", kind=kind, address=ADDRESSES[ip_version].format(base + number))
            for number in range(1, count + 1)
        ]

    return (
        *some(Kind.MANAGER, "cm", 10, managers),
        *some(Kind.GATEWAY, "gw", 90, gateways),
        *some(Kind.SUBMIT, "submit", 20, submit),
        *some(Kind.EXECUTE, "exec", 30, execute),
    )


def lab_of_namespace(namespace: str) -> str | None:
    """The name of the lab that a network namespace of this name belongs to; None: it is none of ours."""
    prefix, _, rest = namespace.partition("-")
    name, _, host = rest.partition("-")
    if prefix == PREFIX and NAME.fullmatch(name) and NAME.fullmatch(host):
        return name
    return None
