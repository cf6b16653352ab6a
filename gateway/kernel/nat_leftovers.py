"""Leftovers of a translation: what the tables of an earlier process say about its services. Reads, and changes nothing.

Rule: a service is known again by its listeners, not by its name or its place in the file.
"""

import ipaddress
from collections.abc import Sequence

from gateway.kernel import nat_rules, nft_expressions
from gateway.kernel.marks import SERVICES_MAX
from gateway.kernel.nat_rules import GENERATION, SERVER, Listener, Service
from gateway.kernel.nft_expressions import Counted
from gateway.kernel.tables import OwnTables


class Leftovers:
    """What the tables of this name hold now; nothing, where there are none.

    Raises:
        KernelRefused: a table of that name is not ours, or no permission.
    """

    def __init__(self, tables: OwnTables) -> None:
        self.counted: dict[int, dict[str, Counted]] = {}
        self._chains: dict[bytes, str] = {}
        self._servers: dict[bytes, bytes] = {}
        for family in tables.ours():
            self.counted[family] = counters_of(tables, family)
            for key, chain in _elements(tables, GENERATION, family).items():
                self._chains[key] = str(chain)
            for key, place in _elements(tables, SERVER, family).items():
                if isinstance(place, bytes):
                    self._servers[key] = place

    @property
    def used_slots(self) -> set[int]:
        """The numbers of the services that the tables know."""
        return {nat_rules.of_chain(chain)[0] for chain in self._chains.values()}

    def slots(self, services: Sequence[Service]) -> dict[str, int]:
        """Return a number for each service: its former one, or one that none had."""
        used = self.used_slots
        free = iter(slot for slot in range(SERVICES_MAX + len(used)) if slot not in used)
        given: dict[str, int] = {}
        for service in services:
            before = [nat_rules.of_chain(self._chains[at.key])[0] for at in service.listeners if at.key in self._chains]
            fit = [slot for slot in before if slot not in given.values()]
            given[service.name] = fit[0] if fit else next(free)
        return given

    def generation(self, service: Service) -> int | None:
        """Return the generation of a service's new flows; None: the tables do not know the service."""
        for at in service.listeners:
            if at.key in self._chains:
                return nat_rules.of_chain(self._chains[at.key])[1]
        return None

    def server(self, service: Service) -> tuple[str, int] | None:
        """Return the server of a service; None: it has none."""
        for at in service.listeners:
            place = self._servers.get(at.key)
            if place is not None:
                return str(ipaddress.ip_address(place[:-4])), int.from_bytes(place[-4:-2], "big")
        return None


def counters_of(tables: OwnTables, family: int) -> dict[str, Counted]:
    """Return the counters of one table by name."""
    kind, attributes = nft_expressions.counters_request(tables.name)
    return nft_expressions.counters_of(tables.nftables.dump(kind, attributes, family))


def suited(service: Service, place: tuple[str, int]) -> list[Listener]:
    """Return the listeners of the server's IP version."""
    return [at for at in service.listeners if (":" in at.ip) == (":" in place[0])]


def _elements(tables: OwnTables, of_map: str, family: int) -> dict[bytes, bytes | str]:
    kind, attributes = nft_expressions.elements_request(tables.name, of_map)
    return nft_expressions.elements_of(tables.nftables.dump(kind, attributes, family))
