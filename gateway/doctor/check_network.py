"""Checks of the host's network: interfaces, virtual addresses, ARP, IPv6, and who else sets addresses here. Pure."""

import ipaddress
from collections.abc import Iterator, Sequence
from typing import Final

from gateway.config.settings import Address, Forward
from gateway.doctor.facts import Device, Facts
from gateway.doctor.findings import Check, Trouble, error, note, warning

KEEPING: Final = frozenset({"yes", "true", "static", "1", "on"})  # KeepConfiguration= of systemd.network(5)
STRICT: Final = 1  # rp_filter: what comes from where an answer would not go is dropped (RFC 3704 §2.2)


def interfaces_are_up(facts: Facts) -> list[Trouble] | None:
    """Each virtual address has its interface, with a cable in it."""
    if facts.devices is None or not facts.held():
        return None
    found = []
    for address in facts.held():
        device = facts.devices.get(address.device)
        if device is None:
            known = ", ".join(name for name, one in facts.devices.items() if not one.loopback)
            told = f"address '{address.name}' is for interface {address.device}, which this host does not have: {known}"
            found.append(error(told, "name this host's interface after 'dev'; it must have one name on all holders"))
        elif not device.up:
            found.append(error(f"interface {device.name} is down", f"ip link set {device.name} up"))
        elif not device.carrier:
            found.append(error(f"interface {device.name} has no carrier", "look at its cable and its switch"))
    return found


def own_address_is_here(facts: Facts) -> list[Trouble] | None:
    """Heartbeats come to this node's own address."""
    if facts.devices is None or facts.me is None:
        return None
    own = facts.me.endpoint.host
    if facts.own_device() is None:
        return [
            error(
                f"no interface of this host has {own}, at which its peers expect '{facts.me.name}'",
                "correct the peer line",
            )
        ]
    return []


def addresses_stand_right(facts: Facts) -> list[Trouble] | None:
    """A virtual address is on its interface where this node holds it, and nowhere else."""
    if facts.devices is None or facts.settings is None:
        return None
    found = []
    for address in facts.settings.addresses:
        loop = any(backend.forward is Forward.DIRECT for backend in facts.managed())
        for device in facts.devices.values():
            if not _has(device, address.ip) or (device.loopback and loop):
                continue
            if device.name != address.device:
                told = f"{address.ip} of '{address.name}' is on {device.name} of this host, not on {address.device}"
                found.append(
                    error(told, f"ip address del {address.ip} dev {device.name}, and remove what put it there")
                )
            elif not _holds(facts, address):
                told = f"{address.ip} is on {device.name}, although this node does not hold '{address.name}'"
                found.append(
                    error(told, f"ip address del {address.ip} dev {device.name}, and remove what put it there")
                )
    return found


def nobody_else_sets_it(facts: Facts) -> list[Trouble] | None:
    """No file of the host's network configuration has a virtual address."""
    if facts.settings is None:
        return None
    return [
        error(
            f"{one.address} stands in {one.path}, line {one.line}: at boot this host would take the address by itself, "
            "whoever holds it",
            "remove it there; the node that is elected sets it",
        )
        for one in facts.mentions
    ]


def nobody_else_answers(facts: Facts) -> list[Trouble] | None:
    """No stranger answers for a virtual address."""
    if facts.settings is None or not facts.held():
        return None
    claims: dict[str, set[str]] = {name: set(macs) for name, macs in facts.answered.items()}
    for name, service in ((facts.status or {}).get("addresses") or {}).items():
        claims.setdefault(name, set()).update(service.get("claimed_by") or ())
    return [
        error(
            f"{', '.join(sorted(macs))} answers for the address of '{name}' and is none of its holders",
            "find that host and take the address from it; in a cloud, look for the provider's own answers",
        )
        for name, macs in sorted(claims.items())
        if macs
    ]


def one_interface_answers(facts: Facts) -> list[Trouble] | None:
    """With several interfaces on one segment, only the right one answers ARP for the address."""
    if facts.devices is None:
        return None
    held = [address for address in facts.held() if ":" not in address.ip]
    others = {address.device: _neighbours(facts, address.device) for address in held}
    if not any(others.values()):
        return None if not held else []
    found = []
    for name, near in others.items():
        if near and (facts.sysctl("net/ipv4/conf/all/arp_ignore") or 0) == 0:
            told = (
                f"{', '.join(near)} and {name} are on one network, and Linux answers ARP on each for the addresses of "
                "all (arp_ignore = 0): clients would learn a MAC that nobody announces and no lease guards"
            )
            found.append(warning(told, "sysctl -w net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2"))
    return found


def removal_takes_nothing_along(facts: Facts) -> list[Trouble] | None:
    """A virtual address with a short prefix may be removed alone."""
    held = [address for address in facts.held() if ":" not in address.ip and address.prefix_length < 32]
    if not held:
        return None
    return [
        warning(
            f"'{one.name}' is a /{one.prefix_length}: removing it may take this host's own addresses of that "
            "network along",
            f"write {one.ip}/32, or sysctl -w net.ipv4.conf.{one.device}.promote_secondaries=1",
        )
        for one in held
        if facts.sysctl_of(one.device, "promote_secondaries") == 0
    ]


def foreign_addresses_are_refused(facts: Facts) -> list[Trouble] | None:
    """Programs can't answer from an address that the host does not hold."""
    if not facts.held():
        return None
    return [
        warning(
            f"net.{family}.ip_nonlocal_bind is on: programs may answer from an address that this host does not hold",
            f"sysctl -w net.{family}.ip_nonlocal_bind=0, unless another program needs it",
        )
        for family in ("ipv4", "ipv6")
        if facts.sysctl(f"net/{family}/ip_nonlocal_bind")
    ]


def answers_may_come_back(facts: Facts) -> list[Trouble] | None:
    """Where managers see the clients' own addresses, packets of clients are not taken for forged ones."""
    ways = [one for one in facts.managed() if one.forward is Forward.DIRECT or one.transparent]
    device = facts.own_device()
    if not ways or device is None or facts.devices is None:
        return None
    several = [one for one in facts.devices.values() if not one.loopback and one.up and one.addresses]
    if facts.sysctl_of(device, "rp_filter") == STRICT and len(several) > 1:
        told = (
            f"this host has several interfaces, and {device} drops clients whose route leads elsewhere (rp_filter 1): "
            f"with 'forward {ways[0].forward}' they come in by {device} with their own addresses"
        )
        return [warning(told, f"sysctl -w net.ipv4.conf.{device}.rp_filter=2 net.ipv4.conf.all.rp_filter=2")]
    return []


def networkd_keeps_it(facts: Facts) -> list[Trouble] | None:
    """systemd-networkd leaves addresses alone that it did not set."""
    managed = [address.device for address in facts.held() if address.device in facts.networkd]
    if not managed:
        return None
    return [
        warning(
            f"systemd-networkd manages {device} and removes the virtual address when it restarts; it is put back "
            "within milliseconds",
            f"KeepConfiguration=yes in the [Network] section of {device}'s .network file",
        )
        for device in dict.fromkeys(managed)
        if facts.networkd[device].lower() not in KEEPING
    ]


def ipv6_is_ready(facts: Facts) -> list[Trouble] | None:
    """IPv6 is on, and duplicate address detection does not silence the address."""
    held = [address for address in facts.held() if ":" in address.ip]
    if not held:
        return None
    found = list(_ipv6_off(facts, held))
    for address in held:
        device = (facts.devices or {}).get(address.device)
        for one in device.addresses if device is not None else ():
            if one.ip != address.ip:
                continue
            if one.dad_failed:
                told = f"the kernel has taken {one.ip} for a duplicate and keeps it silent (dadfailed)"
                found.append(error(told, "find the other host that has it; then restart condor-gateway here"))
            elif one.tentative:
                told = f"{one.ip} is tentative: somebody else has set it, for condor-gateway sets it without detection"
                found.append(error(told, "remove it from the host's network configuration"))
        if facts.sysctl(f"net/ipv6/conf/{address.device}/accept_dad") == 2:
            told = (
                f"accept_dad is 2 on {address.device}: one duplicate of its link-local address switches IPv6 off there"
            )
            found.append(note(told, f"sysctl -w net.ipv6.conf.{address.device}.accept_dad=1"))
    return found


def _ipv6_off(facts: Facts, held: Sequence[Address]) -> Iterator[Trouble]:
    for device in dict.fromkeys(address.device for address in held):
        if facts.sysctl(f"net/ipv6/conf/{device}/disable_ipv6"):
            yield error(f"IPv6 is switched off on {device}", f"sysctl -w net.ipv6.conf.{device}.disable_ipv6=0")


def _has(device: Device, ip: str) -> bool:
    return any(address.ip == ip for address in device.addresses)


def _holds(facts: Facts, address: Address) -> bool:
    service = ((facts.status or {}).get("addresses") or {}).get(address.name)
    return bool(service and service.get("held"))


def _neighbours(facts: Facts, name: str) -> list[str]:
    """Return the other interfaces that are on a network of interface `name`."""
    devices = facts.devices or {}
    mine = _networks(devices.get(name))
    return [other for other, device in devices.items() if other != name and device.up and mine & _networks(device)]


def _networks(device: Device | None) -> set[str]:
    if device is None or device.loopback:
        return set()
    return {
        str(ipaddress.ip_network(f"{one.ip}/{one.prefix_length}", strict=False))
        for one in device.addresses
        if one.prefix_length < ipaddress.ip_address(one.ip).max_prefixlen
    }


CHECKS: tuple[Check, ...] = (
    Check("interface", "every virtual address has its interface, up and connected", interfaces_are_up),
    Check("own-address", "this host has the address at which its peers expect it", own_address_is_here),
    Check("address-misplaced", "the virtual address is where this node put it, or nowhere here", addresses_stand_right),
    Check("address-configured", "no network configuration of this host has the virtual address", nobody_else_sets_it),
    Check("address-claimed", "no stranger answers for the virtual address", nobody_else_answers),
    Check("arp-flux", "no second interface answers for the virtual address", one_interface_answers),
    Check("promote-secondaries", "the virtual address can be removed alone", removal_takes_nothing_along),
    Check("nonlocal-bind", "nobody may answer from addresses that are elsewhere", foreign_addresses_are_refused),
    Check("rp-filter", "clients' own addresses are let in", answers_may_come_back),
    Check("networkd", "systemd-networkd keeps foreign addresses", networkd_keeps_it),
    Check("ipv6-dad", "IPv6 is on, and no detection of duplicates silences the address", ipv6_is_ready),
)
