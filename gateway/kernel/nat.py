"""Nat: new flows to a virtual address go to the elected server, by address translation in the kernel.

Rule: a switch is one transaction; a flow goes on to the server that it began with until `expel` drops it.

While no server is elected there is no rule, and packets go up to the listener of this host (the relay), which holds
them. A connection that it has accepted stays with it when a server is there again: conntrack knows the flow and does
not translate it. What a crash leaves behind goes on translating, and is adopted by the next process as it is.
"""

import contextlib
import errno
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from gateway.kernel import nat_rules
from gateway.kernel.conntrack import Conntrack
from gateway.kernel.marks import MARK_MASK, SERVICES_MAX
from gateway.kernel.nat_leftovers import Leftovers, counters_of, suited
from gateway.kernel.nat_rules import GENERATION_BIT, PROTOCOL_BIT, PROTOCOLS, Service
from gateway.kernel.netlink import KernelRefused
from gateway.kernel.nftables import Batch, Refusal
from gateway.kernel.rouse import Roused, rouse
from gateway.kernel.sysctl import read_sysctl
from gateway.kernel.tables import OwnTables

# At a switch who is new goes before the search for who was there: on one core it took the first of them 10 ms else.
NEWCOMERS_FIRST_S: Final = 0.01

_COMMENT: Final = "condor-gateway translation"
_REMEDIES: Final = {
    errno.ENOENT: "the table is not as it was left: install it again",
    errno.EEXIST: "the table is not as it was left: install it again",
}
_TOO_OLD: Final = "the kernel cannot translate by maps: it needs nf_tables with NAT (Linux 5.6 or later)"


class Server(Protocol):
    """Where a service's flows go: an address literal and a port, as `gateway.config.settings.Endpoint`."""

    @property
    def host(self) -> str:
        """The address."""

    @property
    def port(self) -> int:
        """The port."""


class Nat:
    """Translation for the services of one cluster, in the tables `condor-gateway-<cluster>-nat`.

    `switch`, `counters` and `intact` are synchronous and take microseconds; call the others in a thread, and `install`,
    `expel` and `remove` never beside another. Beside `expel` the first three and `follow` may be called.

    Raises:
        KernelRefused: the kernel has no nftables, or no connection tracking.
        ValueError: more services than marks, or two of one name or listener.
    """

    def __init__(self, cluster: str, services: Sequence[Service]) -> None:
        listeners = [at.key for one in services for at in one.listeners]
        if len(services) > SERVICES_MAX:
            raise ValueError(f"{len(services)} services, but at most {SERVICES_MAX} can be told apart")
        if len(set(listeners)) != len(listeners) or len({one.name for one in services}) != len(services):
            raise ValueError("two services of one name, or for one address, protocol and port")
        self.table = f"condor-gateway-{cluster}-nat"
        self.services = tuple(services)
        self._tables = OwnTables(self.table, _COMMENT, "the translation")
        self._conntrack = Conntrack()
        self._turning = threading.Lock()
        self._turns: Counter[str] = Counter()  # switches of each service to another server
        self._forget()

    @property
    def state(self) -> str:
        """How far the kernel keeps the translation: "kernel", and what this kernel is too old for."""
        return "kernel" if self._tables.owned else "kernel, others may change it (before Linux 6.9)"

    def install(self, *, keep: bool = False) -> None:
        """Build the tables in one transaction; replaces what an earlier process of ours has left.

        With `keep` flows go on, servers stay elected and counters go on counting, also where services have been added
        or taken away. Without it there is no server until the first `switch`, and flows of former ones are dropped.

        Raises:
            KernelRefused: no permission, another process holds the tables, they are not ours, or the kernel is too
                old. Nothing was changed then.
        """
        left = Leftovers(self._tables)
        self._forget()
        self._slots = left.slots(self.services)
        if keep:
            self._adopt(left)
        by_slot = {self._slots[service.name]: service for service in self.services}
        self._layout = nat_rules.layout(self.table, by_slot)
        counters = nat_rules.counters(self.table, by_slot, left.counted if keep else {})
        refusal = self._tables.build(self._layout, keep=keep, before=counters, after=self._elements())
        if refusal is not None:
            raise self._refused("build the translation", refusal)
        gone = left.used_slots - by_slot.keys() if keep else left.used_slots | by_slot.keys()
        self._drop(gone)

    def switch(self, server: Server | None, service: str | None = None) -> bool:
        """Let new flows of a service go to `server`; None: up to this host's own listener.

        True: it is another server than the last one, and flows to that are left: call `follow` at once if datagrams
        shall go to the new one, and `expel` at the end of the time that connections have, which is the next switch at
        the latest. After None the last server may come back, and nothing is dropped.

        Args:
            server: of a service with listeners of both IP versions only those of its own get it.
            service: its name; may be left away where there is but one.

        Raises:
            KernelRefused: the tables are gone, or belong to another process.
        """
        named = self._named(service)
        name = named.name
        place = (server.host, server.port) if server is not None else None
        if place == self._servers.get(name):
            return False
        turns = place is not None and (name in self._unknown or self._last.get(name, place) != place)
        with self._turning:  # `expel` holds it for as long as a flush takes
            if turns and name in self._lingering:  # its turn comes again: nobody of the last but one may be left
                self._flush(named, self._former(name))
            self._transact(named, place, turns)
            self._turns[name] += turns
        self._servers[name] = place
        if place is not None:
            self._last[name] = place
            self._unknown.discard(name)
        if turns:
            self._lingering.add(name)
        return turns

    def follow(self, service: str) -> None:
        """Drop the UDP flows of a service to its former servers: its next datagrams go to the present one.

        Raises:
            KernelRefused: no permission.
        """
        named = self._named(service)
        with contextlib.closing(Conntrack()) as conntrack, self._turning:
            if service in self._lingering:
                self._flush(named, self._former(service), ("udp",), through=conntrack)

    def expel(self, service: str | None = None) -> Roused:
        """Drop the flows of a service to its former servers, and rouse the clients that wait for their answer.

        Ten thousand connections take some 0.3 s, most of it to find out who they are: new clients have the processor
        for a moment before. A `switch` may come meanwhile, and drops them itself.

        Raises:
            KernelRefused: no permission.
        """
        named = self._named(service)
        name = named.name
        if name not in self._lingering:
            return Roused(0, 0)
        turn, former = self._turns[name], self._former(name)
        time.sleep(NEWCOMERS_FIRST_S)
        with contextlib.closing(Conntrack()) as conntrack:  # of this thread alone
            mark = nat_rules.mark(self._slots[name], "tcp", former)
            flows = conntrack.flows(mark, MARK_MASK)  # before they are gone
            with self._turning:
                if self._turns[name] != turn:  # the mark may be that of the present server's clients now
                    return Roused(0, 0)
                self._flush(named, former, through=conntrack)
                self._lingering.discard(name)
        return rouse(flows)

    @property
    def lingering(self) -> frozenset[str]:
        """The services that may have flows to former servers: `expel` them when their time is over."""
        return frozenset(self._lingering)

    def counters(self) -> dict[str, int]:
        """Return what the kernel has counted since the tables were first built.

        Keys are "<service>.<what>": tcp_opened and udp_opened (new flows), tcp_refused (SYNs above the rate of their
        client), tcp_received_packets, tcp_received_bytes,
        tcp_sent_..., and the same of UDP, whose packets are datagrams (put together from their fragments). "Received"
        is from clients; bytes count IP headers. What the relay carries is not in them.

        Raises:
            KernelRefused: no permission.
        """
        names = {slot: name for name, slot in self._slots.items()}
        found: dict[str, int] = {}
        for family in self._layout.chains:
            for counter, counted in counters_of(self._tables, family).items():
                slot, what = nat_rules.of_counter(counter)
                if what.endswith(("opened", "refused")):
                    numbers = {f"{names[slot]}.{what}": counted.packets}
                else:
                    key = f"{names[slot]}.{what}"
                    numbers = {f"{key}_packets": counted.packets, f"{key}_bytes": counted.bytes}
                for key, number in numbers.items():
                    found[key] = found.get(key, 0) + number
        return found

    def established(self, service: str, through: Conntrack) -> tuple[int, int]:
        """Return how many connections of a service are open now: to its server, and to former ones. In a thread.

        Raises:
            KernelRefused: no permission.
        """
        slot, present = self._slots[service], self._generations[service]
        marks = (nat_rules.mark(slot, "tcp", generation) for generation in (present, 1 - present))
        now, former = (through.established(mark, MARK_MASK) for mark in marks)
        return now, former

    def intact(self) -> bool:
        """Return whether the tables and all their chains are there."""
        return self._tables.intact(self._layout)

    def remove(self) -> None:
        """Take the translation away, for a clean stop, and drop the flows that it has made.

        Raises:
            KernelRefused: the table belongs to another process.
        """
        refusal = self._tables.remove()
        self._tables.close()
        if refusal is not None and refusal.errno != errno.ENOENT:
            raise self._refused("remove the translation", refusal)
        self._drop(self._slots.values())
        self._conntrack.close()

    def close(self) -> None:
        """Close the sockets. The tables stay as they are, for the next process to adopt."""
        self._tables.close()
        self._conntrack.close()

    # -- what there is ---------------------------------------------------------------------------------------------

    def _forget(self) -> None:
        self._slots = {service.name: slot for slot, service in enumerate(self.services)}
        self._layout = nat_rules.layout(self.table, dict(enumerate(self.services)))
        self._generations = {service.name: 0 for service in self.services}
        self._servers: dict[str, tuple[str, int] | None] = {}
        self._last: dict[str, tuple[str, int]] = {}  # the server that the present generation's flows go to
        self._unknown: set[str] = set()  # services whose last server is not known, but may have flows
        self._lingering: set[str] = set()

    def _adopt(self, left: Leftovers) -> None:
        for service in self.services:
            generation = left.generation(service)
            if generation is None:
                continue
            self._generations[service.name] = generation
            self._lingering.add(service.name)
            server = left.server(service)
            self._servers[service.name] = server
            if server is None:
                self._unknown.add(service.name)
            else:
                self._last[service.name] = server

    def _named(self, service: str | None) -> Service:
        for one in self.services:
            if one.name == service or (service is None and len(self.services) == 1):
                return one
        raise ValueError(f"there is no service {service!r}, only {', '.join(one.name for one in self.services)}")

    def _former(self, name: str) -> int:
        return 1 - self._generations[name]

    # -- elements --------------------------------------------------------------------------------------------------

    def _elements(self) -> list[bytes]:
        made = []
        for service in self.services:
            made += [self._generation_element(service, at) for at in service.listeners]
            made += self._with_server(service, self._servers.get(service.name))
        return made

    def _transact(self, service: Service, place: tuple[str, int] | None, turns: bool) -> None:
        messages = self._without_server(service)
        before = self._generations[service.name]
        if turns:
            self._generations[service.name] = 1 - before
            for at in service.listeners:
                messages.append(nat_rules.no_generation_element(self.table, at))
                messages.append(self._generation_element(service, at))
        messages += self._with_server(service, place)
        refusal = self._tables.nftables.transact(Batch(messages)) if messages else None
        if refusal is not None:
            self._generations[service.name] = before
            raise self._refused("switch to another server", refusal)

    def _generation_element(self, service: Service, at: nat_rules.Listener) -> bytes:
        generation = self._generations[service.name]
        return nat_rules.generation_element(self.table, at, self._slots[service.name], generation)

    def _with_server(self, service: Service, place: tuple[str, int] | None) -> list[bytes]:
        if place is None:
            return []
        return [
            *(nat_rules.server_element(self.table, at, *place) for at in suited(service, place)),
            *self._itself(service, place, present=True),
        ]

    def _without_server(self, service: Service) -> list[bytes]:
        place = self._servers.get(service.name)
        if place is None:
            return []
        return [
            *(nat_rules.no_server_element(self.table, at) for at in suited(service, place)),
            *self._itself(service, place, present=False),
        ]

    def _itself(self, service: Service, place: tuple[str, int], *, present: bool) -> list[bytes]:
        if not suited(service, place):
            return []
        return [nat_rules.itself_element(self.table, self._slots[service.name], place[0], present=present)]

    # -- flows -----------------------------------------------------------------------------------------------------

    def _flush(
        self,
        service: Service,
        generation: int,
        protocols: Sequence[str] = PROTOCOLS,
        through: Conntrack | None = None,
    ) -> None:
        for protocol in protocols:
            mark = nat_rules.mark(self._slots[service.name], protocol, generation)
            (through or self._conntrack).flush(mark, MARK_MASK)

    def _drop(self, slots: Iterable[int]) -> None:
        """Drop all flows of these services."""
        for slot in slots:
            of_slot = MARK_MASK & ~(GENERATION_BIT | PROTOCOL_BIT)
            self._conntrack.flush(nat_rules.mark(slot, "tcp", 0), of_slot)

    def _refused(self, operation: str, refusal: Refusal) -> KernelRefused:
        return self._tables.refused(operation, refusal, _REMEDIES, _TOO_OLD)


def forwarding_sysctls(
    devices: Iterable[str], *, version_4: bool, version_6: bool, transparent: bool = False
) -> dict[str, str]:
    """Return the kernel settings that let translated packets through, for `gateway.kernel.sysctl.Sysctls`.

    IPv4 is forwarded by device. IPv6 is since Linux 6.17 (force_forwarding); before, only by the host as a whole,
    which then also stops to take its own addresses and routes from router advertisements, unless accept_ra is 2.

    Early demultiplexing gives a packet to the socket that its addresses name before it is routed (ip-sysctl). Under
    `transparent` that may be one of the relay's, which has a client's address, and the packet another flow's answer.

    Args:
        devices: those that clients, servers or both are behind.
        version_4: whether IPv4 is translated.
        version_6: whether IPv6 is.
        transparent: whether the relay has sockets with clients' addresses.
    """
    wanted: dict[str, str] = {}
    if transparent:  # of both IP versions, whatever the name says
        wanted = {"net/ipv4/tcp_early_demux": "0", "net/ipv4/udp_early_demux": "0"}
    for device in devices:
        if version_4:
            wanted[f"net/ipv4/conf/{device}/forwarding"] = "1"
        if version_6 and _exists(f"net/ipv6/conf/{device}/force_forwarding"):
            wanted[f"net/ipv6/conf/{device}/force_forwarding"] = "1"
        elif version_6:
            if read_sysctl(f"net/ipv6/conf/{device}/accept_ra") == "1":
                wanted[f"net/ipv6/conf/{device}/accept_ra"] = "2"
            wanted["net/ipv6/conf/all/forwarding"] = "1"
    return wanted


def _exists(name: str) -> bool:
    try:
        read_sysctl(name)
    except KernelRefused as refused:
        if refused.errno == errno.ENOENT:
            return False
        raise
    return True
