"""Facts: what a host is like, as values. Gathered elsewhere; None, or an empty reason beside it, is 'not known'."""

from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.config.settings import Address, Backend, Peer, Role, Settings
from gateway.doctor.condor import Knob


class DeviceAddress(msgspec.Struct, frozen=True, kw_only=True):
    """An address of a device; the two flags are IPv6's."""

    ip: str
    prefix_length: int
    tentative: bool = False
    dad_failed: bool = False


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """A network device. `carrier`: the cable is in, or whatever counts as one."""

    name: str
    up: bool = True
    carrier: bool = True
    loopback: bool = False
    addresses: tuple[DeviceAddress, ...] = ()


class Mention(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the host's network configuration in which a virtual address stands."""

    path: str
    line: int
    address: str


class StateFolder(msgspec.Struct, frozen=True, kw_only=True):
    """The folder of terms and votes. `file_system` is the kernel's word for it: ext4, tmpfs."""

    exists: bool
    file_system: str = ""
    free_bytes: int = 0


class Clock(msgspec.Struct, frozen=True, kw_only=True):
    """The host's clock. `synchronised` is the kernel's own word, None where it is not known."""

    unix_s: float
    synchronised: bool | None = None


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the checks look at."""

    host: str = ""
    program: str = ""  # version
    root: bool = True
    path: str = "gateway.cfg"
    included: tuple[tuple[str, str], ...] = ()  # name and text of each file that it includes
    digest: str = ""  # of what the file says, whatever its comments and spelling
    running: str = ""  # the same of what the node runs by
    invalid: str = ""  # every error of the file, rendered
    advice: tuple[str, ...] = ()  # its warnings, one sentence each
    settings: Settings | None = None
    me: Peer | None = None
    stranger: str = ""  # why this host is none of the peers
    key: str = ""  # what is wrong with the key file
    state: StateFolder | None = None
    kernel: tuple[int, int] | None = None
    clock: Clock | None = None
    sysctls: Mapping[str, str] = {}  # as `net/ipv4/ip_forward`; absent: this kernel has no such setting
    sysctls_fixed: bool = False  # /proc/sys is read-only for us
    devices: Mapping[str, Device] | None = None
    answered: Mapping[str, tuple[str, ...]] = {}  # address section -> MACs of others than its holders that answer
    mentions: tuple[Mention, ...] = ()
    networkd: Mapping[str, str] = {}  # device that systemd-networkd manages -> its KeepConfiguration
    ruleset: tuple[Mapping[str, Any], ...] | None = None  # of `nft -j list ruleset`
    ruleset_unknown: str = ""
    legacy_tables: tuple[str, ...] = ()  # of iptables-legacy
    realtime: str | None = None  # why it is not permitted; "" where it is
    descriptors: int | None = None  # hard limit, of the running node where there is one
    conntrack: tuple[int, int] | None = None  # entries, and how many there may be
    condor: Mapping[str, Knob] | None = None
    condor_unknown: str = ""
    status: Mapping[str, Any] | None = None
    status_unknown: str = ""
    changes: tuple[Mapping[str, Any], ...] | None = None  # the newest of the node's history
    peers: Mapping[str, Mapping[str, Any]] = {}  # node -> its own `doctor --json`, or {"error": sentence}

    def is_(self, role: Role) -> bool:
        """Return whether this host has a role in the file."""
        return self.me is not None and role in self.me.roles

    def held(self) -> tuple[Address, ...]:
        """Return the virtual addresses that this host may hold."""
        if self.settings is None or self.me is None:
            return ()
        return tuple(address for address in self.settings.addresses if self.me.name in address.holders)

    def managed(self) -> tuple[Backend, ...]:
        """Return the pools whose manager this host may be."""
        if self.settings is None or self.me is None:
            return ()
        return tuple(
            one for one in self.settings.backends if any(server.name == self.me.name for server in one.servers)
        )

    def carried(self) -> tuple[Backend, ...]:
        """Return the pools to which this host leads as a gateway."""
        if self.settings is None:
            return ()
        names = {address.name for address in self.held()}
        led = {front.backend for front in self.settings.frontends for bind in front.binds if bind.address in names}
        return tuple(backend for backend in self.settings.backends if backend.name in led)

    def sysctl(self, name: str) -> int | None:
        """Return a setting as a number; None where it is not there."""
        value = self.sysctls.get(name, "")
        return int(value) if value.lstrip("-").isdecimal() else None

    def sysctl_of(self, device: str, name: str, family: str = "ipv4") -> int | None:
        """Return a setting as it counts for a device in most of them: the greater of its own and that of `all`."""
        values = [self.sysctl(f"net/{family}/conf/{scope}/{name}") for scope in ("all", device)]
        known = [value for value in values if value is not None]
        return max(known) if known else None

    def own_device(self) -> str | None:
        """Return the device that has this node's own address."""
        if self.me is None or self.devices is None:
            return None
        for device in self.devices.values():
            if any(address.ip == self.me.endpoint.host for address in device.addresses):
                return device.name
        return None
