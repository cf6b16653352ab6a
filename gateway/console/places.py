"""Places: how many of a kind there may be at once, of all who come and of each address.

Rule: one address has half of the places at most, so that whoever fills them all up from there keeps nobody else out.
Behind a proxy all readers have its address, and share that half.
"""

import ipaddress
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

PREFIX_V6: Final = 64  # one host may have any address of such a network (RFC 4291 §2.5.1)


class Places:
    """So many `places`, of which one address may have `of_one`."""

    def __init__(self, places: int, of_one: int) -> None:
        self.places, self.of_one = places, of_one
        self._taken: Counter[str] = Counter()

    def take(self, source: str) -> bool:
        """Take a place for an address; False where there is none for it. To be given back by `leave`."""
        key = network_of(source)
        if self._taken.total() >= self.places or self._taken[key] >= self.of_one:
            return False
        self._taken[key] += 1
        return True

    def leave(self, source: str) -> None:
        """Give a place back."""
        key = network_of(source)
        self._taken[key] -= 1
        if not self._taken[key]:
            del self._taken[key]  # nothing is remembered of who has gone

    @contextmanager
    def held(self, source: str) -> Iterator[bool]:
        """Hold a place while in here, where there is one."""
        has = self.take(source)
        try:
            yield has
        finally:
            if has:
                self.leave(source)


def network_of(source: str) -> str:
    """Return what counts as one address: an IPv4 address, or an IPv6 network."""
    try:
        address = ipaddress.ip_address(source.partition("%")[0])
    except ValueError:
        return source
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((address, PREFIX_V6), strict=False))
