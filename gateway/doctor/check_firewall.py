"""Checks of the host's firewall: does it let in what this node needs? Pure; the rules are judged elsewhere."""

from collections.abc import Iterator
from typing import Final

import msgspec

from gateway.config.settings import Forward, Protocol
from gateway.doctor.facts import Facts
from gateway.doctor.findings import Check, Trouble, error, note
from gateway.doctor.ruleset import Packet, Passage, passage

FLOWS_MAX: Final = 64  # of each kind: nine peers, nine pools and their ports are fewer


class Flow(msgspec.Struct, frozen=True, kw_only=True):
    """What must pass: `what` for people, the hook and the packet for the rules, and how to let it pass."""

    what: str
    hook: str
    packet: Packet


def heartbeats(facts: Facts) -> list[Flow]:
    """Heartbeats of every peer come in by UDP, and leave."""
    if facts.settings is None or facts.me is None:
        return []
    own, device = facts.me.endpoint, facts.own_device()
    flows = []
    for peer in facts.settings.peers:
        if peer.name == facts.me.name:
            continue
        there = peer.endpoint
        version = 6 if ":" in own.host else 4
        coming = Packet(
            protocol="udp", port=own.port, version=version, source=there.host, destination=own.host, device=device
        )
        going = Packet(
            protocol="udp", port=there.port, version=version, source=own.host, destination=there.host, device=device
        )
        flows.append(Flow(what=f"heartbeats of {peer.name}", hook="input", packet=coming))
        flows.append(Flow(what=f"heartbeats to {peer.name}", hook="output", packet=going))
    return flows


def links(facts: Facts) -> list[Flow]:
    """The accounting stream, and what nodes ask each other, come by TCP to the same port."""
    return [
        Flow(
            what=flow.what.replace("heartbeats of", "the stream and the questions of"),
            hook=flow.hook,
            packet=msgspec.structs.replace(flow.packet, protocol="tcp"),
        )
        for flow in heartbeats(facts)
        if flow.hook == "input"
    ]


def clients(facts: Facts) -> list[Flow]:
    """Clients reach the virtual address on a gateway."""
    if facts.settings is None:
        return []
    held = {address.name: address for address in facts.held()}
    ways = {backend.name: backend for backend in facts.settings.backends}
    flows = []
    for front in facts.settings.frontends:
        for bind in front.binds:
            address = held.get(bind.address)
            backend = ways.get(front.backend)
            if address is None or backend is None:
                continue
            for protocol in sorted(bind.protocols):
                packet = _to(address.ip, bind.port, protocol, address.device)
                what = f"clients of {address.name}:{bind.port} ({protocol.upper()})"
                # Whatever the way, the relay holds connections while nobody is elected.
                flows.append(Flow(what=what, hook="input", packet=packet))
                if backend.forward is Forward.NAT:
                    through = msgspec.structs.replace(
                        packet, destination=None, port=backend.servers[0].endpoint.port, device=address.device
                    )
                    flows.append(Flow(what=f"{what}, forwarded", hook="forward", packet=through))
    return flows[:FLOWS_MAX]


def collectors(facts: Facts) -> list[Flow]:
    """Gateways, or clients, reach the collector on a manager."""
    flows = []
    for backend in facts.managed():
        for server in backend.servers:
            if facts.me is None or server.name != facts.me.name:
                continue
            for protocol in (Protocol.TCP, Protocol.UDP):
                packet = _to(server.endpoint.host, server.endpoint.port, protocol, facts.own_device())
                flows.append(
                    Flow(
                        what=f"HTCondor's port {server.endpoint.port} ({protocol.upper()})", hook="input", packet=packet
                    )
                )
    return flows[:FLOWS_MAX]


def _to(host: str, port: int, protocol: Protocol, device: str | None) -> Packet:
    version = 6 if ":" in host else 4
    return Packet(protocol=protocol.value, port=port, version=version, destination=host, device=device)


def _judge(facts: Facts, flows: list[Flow]) -> list[Trouble] | None:
    if facts.ruleset is None or not flows:
        return None
    dropped: dict[tuple[str, str], list[str]] = {}
    unsure: dict[tuple[str, str], list[str]] = {}
    for flow in flows:
        answer = passage(facts.ruleset, flow.hook, flow.packet)
        key = answer.chain, _rule(flow)
        if answer.passage is Passage.DROPPED:
            dropped.setdefault(key, []).append(flow.what)
        elif answer.passage is Passage.PERHAPS:
            unsure.setdefault(key, []).append(flow.what)
    found = [
        error(f"the firewall drops {_listed(whats)} ({chain})", f"let in: {rule}")
        for (chain, rule), whats in dropped.items()
    ]
    return found + [
        note(
            f"the firewall may drop {_listed(whats)}: it depends on more than can be told here ({chain})",
            f"see that it has: {rule}",
        )
        for (chain, rule), whats in unsure.items()
    ]


def _rule(flow: Flow) -> str:
    """Return the rule that lets a flow pass, in nft's words."""
    return f"{flow.packet.protocol} dport {flow.packet.port} accept"


def _listed(whats: list[str]) -> str:
    return whats[0] if len(whats) == 1 else f"{', '.join(whats[:-1])} and {whats[-1]}"


def heartbeats_pass(facts: Facts) -> list[Trouble] | None:
    """Heartbeats pass both ways."""
    return _judge(facts, heartbeats(facts))


def links_pass(facts: Facts) -> list[Trouble] | None:
    """What nodes say to each other by TCP comes in."""
    return _judge(facts, links(facts))


def clients_pass(facts: Facts) -> list[Trouble] | None:
    """Clients come in."""
    return _judge(facts, clients(facts))


def collectors_are_reached(facts: Facts) -> list[Trouble] | None:
    """HTCondor's port on this manager is open."""
    return _judge(facts, collectors(facts))


def arp_passes(facts: Facts) -> list[Trouble] | None:
    """ARP, or neighbour discovery, comes in and leaves."""
    if facts.ruleset is None or not facts.held():
        return None
    found = []
    for address in facts.held():
        six = ":" in address.ip
        for hook in ("input", "output"):
            kinds = ("nd-neighbor-solicit", "nd-neighbor-advert") if six else ("",)
            for kind in kinds:
                packet = Packet(
                    protocol="icmpv6" if six else "arp", version=6 if six else 4, device=address.device, kind=kind
                )
                answer = passage(facts.ruleset, hook, packet)
                if answer.passage is Passage.DROPPED:
                    what = f"IPv6's {kind}" if six else "ARP"
                    told = f"the firewall drops {what} at its {hook} ({answer.chain}): nobody would find {address.ip}"
                    rule = f"icmpv6 type {kind} accept" if six else "policy accept in the arp table"
                    found.append(error(told, rule))
    return found


def rules_could_be_read(facts: Facts) -> Iterator[Trouble]:
    """The rules were read, all of them."""
    if facts.ruleset is None and facts.ruleset_unknown:
        yield note(
            f"the firewall was not looked into: {facts.ruleset_unknown}", "see that it lets in what the file names"
        )
    if facts.legacy_tables:
        tables = ", ".join(facts.legacy_tables)
        told = f"iptables-legacy has tables too ({tables}), which were not looked into"
        yield note(told, "iptables-legacy -S shows them; let in what the file names")


CHECKS: tuple[Check, ...] = (
    Check("firewall-read", "the firewall's rules were read", rules_could_be_read),
    Check("firewall-heartbeats", "heartbeats pass both ways", heartbeats_pass),
    Check("firewall-stream", "what nodes say to each other by TCP passes", links_pass),
    Check("firewall-clients", "clients reach the virtual address", clients_pass),
    Check("firewall-collector", "HTCondor's port is open", collectors_are_reached),
    Check("firewall-arp", "ARP and neighbour discovery pass", arp_passes),
)
