"""Tables of ours: built or adopted in one transaction, kept from others, and never mistaken for somebody else's.

Rule: a table is ours only if its comment begins as ours do; any other of that name is left alone, and refused.

With the flags owner and persist (Linux 6.9) the kernel refuses changes by others and keeps the table when its owner
dies; the next process adopts it. Before that a table with an owner would die with it, so it does without one.
"""

import errno
import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gateway.kernel import nftables
from gateway.kernel.netlink import KernelRefused
from gateway.kernel.nftables import Batch, Nftables, Refusal

OWNER_WAIT_S = 2.0  # a killed predecessor holds its table until its memory is torn down
OWNER_LOOK_S = 0.05

_FAMILIES = {
    nftables.NFPROTO_NETDEV: "netdev",
    nftables.NFPROTO_ARP: "arp",
    nftables.NFPROTO_IPV4: "ip",
    nftables.NFPROTO_IPV6: "ip6",
}


class Layout(NamedTuple):
    """What the tables of one name hold: their chains by family, and the messages that fill them, one table a family.

    `purpose` is whatever else must be the same where tables are adopted as they are.
    """

    chains: Mapping[int, tuple[str, ...]]
    filling: tuple[bytes, ...]
    purpose: bytes = b""


class OwnTables:
    """The tables called `name` in the families of a layout. Nothing is built by the constructor.

    Args:
        name: of the tables, "condor-gateway-..." by this project's custom.
        comment: how the comment of every table of this kind begins; a digest of the layout follows.
        what: for messages: "the fence", "the translation".

    Raises:
        KernelRefused: the kernel has no nftables.
    """

    def __init__(self, name: str, comment: str, what: str) -> None:
        self.name = name
        self.owned = False  # whether the kernel refuses changes by others
        self.adopted = False  # whether the last `build` has found its layout, and left all as it was
        self.nftables = Nftables()
        self._prefix = comment
        self._what = what

    def build(
        self, layout: Layout, *, keep: bool, before: Sequence[bytes] = (), after: Sequence[bytes] = ()
    ) -> Refusal | None:
        """Build the tables in one transaction, in place of what an earlier process of ours has left.

        Takes milliseconds, and up to `OWNER_WAIT_S` while a predecessor dies: call it in a thread. With `keep` tables
        of exactly this layout are adopted as they are. What changes by and by is no part of the layout: what stands
        `before` it (counters) and `after` it (elements) is made only with new tables.

        Raises:
            KernelRefused: a table of that name is not ours. Nothing was changed then.
        """
        deadline = time.monotonic() + OWNER_WAIT_S
        contents = [*before, *layout.filling, *after]
        refusal = self._build(layout, keep, contents)
        while refusal is not None and self._owned_by_other(layout) and time.monotonic() < deadline:
            time.sleep(OWNER_LOOK_S)
            refusal = self._build(layout, keep, contents)
        return refusal

    def intact(self, layout: Layout) -> bool:
        """Return whether all tables of this layout and all their chains are there."""
        comment = self._comment(layout)
        for family, chains in layout.chains.items():
            table = self.nftables.table(self.name, family)
            if table is None or table.comment != comment:
                return False
            if not all(self.nftables.has_chain(self.name, chain, family) for chain in chains):
                return False
        return True

    def ours(self) -> list[int]:
        """Return the families in which there is a table of this name.

        Raises:
            KernelRefused: one of them is not ours.
        """
        return [family for family, _ in self._found()]

    def remove(self) -> Refusal | None:
        """Delete all tables of this name, whatever their layout.

        Raises:
            KernelRefused: one of them is not ours.
        """
        adopt, clear = self._leftovers()
        return self.nftables.transact(Batch([*adopt, *clear])) if clear else None

    def close(self) -> None:
        """Close the socket. The tables stay for the next process to adopt."""
        self.nftables.close()

    def refused(self, operation: str, refusal: Refusal, remedies: Mapping[int, str], otherwise: str) -> KernelRefused:
        """Return the error for a refusal: EPERM has one meaning everywhere, the caller says what others mean."""
        if refusal.errno == errno.EPERM and refusal.place < 0:
            remedy = "run as root or give the service CAP_NET_ADMIN"
        elif refusal.errno == errno.EPERM:
            remedy = "another process holds it: is another condor-gateway running here?"
        else:
            remedy = remedies.get(refusal.errno, otherwise)
        return KernelRefused(f"{operation} {self.name!r}", refusal.errno, remedy)

    def _build(self, layout: Layout, keep: bool, contents: Sequence[bytes]) -> Refusal | None:
        adopt, clear = self._leftovers()
        self.adopted = False
        if keep and self.intact(layout):
            refusal = self.nftables.transact(Batch(adopt)) if adopt else None
            self.adopted = refusal is None
            self.owned = refusal is None and bool(adopt)
            return refusal
        refusal = self.nftables.transact(Batch([*adopt, *clear, *self._made(layout, owned=True), *contents]))
        if refusal is None or refusal.errno != errno.EOPNOTSUPP:
            self.owned = refusal is None
            return refusal
        self.owned = False
        return self.nftables.transact(Batch([*adopt, *clear, *self._made(layout, owned=False), *contents]))

    def _leftovers(self) -> tuple[list[bytes], list[bytes]]:
        """Return the messages that make the tables of a predecessor ours, and those that delete them."""
        adopt, clear = [], []
        flags = nftables.TABLE_OWNER | nftables.TABLE_PERSIST
        for family, table in self._found():
            if table.flags & nftables.TABLE_PERSIST:  # its owner is gone or is this process: become the owner first
                adopt.append(nftables.new_table(self.name, flags, "", nftables.CREATE, family=family))
            clear.append(nftables.delete_table(self.name, family=family))
        return adopt, clear

    def _found(self) -> list[tuple[int, nftables.Table]]:
        found = []
        for family, nft_name in _FAMILIES.items():
            table = self.nftables.table(self.name, family)
            if table is None:
                continue
            if not table.comment.startswith(self._prefix):
                remedy = f"a table of that name is there that is not ours: `nft delete table {nft_name} {self.name}`"
                raise KernelRefused(f"build {self._what} {self.name!r}", errno.EEXIST, remedy)
            found.append((family, table))
        return found

    def _made(self, layout: Layout, *, owned: bool) -> list[bytes]:
        flags = nftables.TABLE_OWNER | nftables.TABLE_PERSIST if owned else 0
        comment = self._comment(layout)
        return [nftables.new_table(self.name, flags, comment, family=family) for family in layout.chains]

    def _comment(self, layout: Layout) -> str:
        # A table of another version or configuration is not adopted but rebuilt.
        return f"{self._prefix} {hashlib.sha256(b''.join(layout.filling) + layout.purpose).hexdigest()[:12]}"

    def _owned_by_other(self, layout: Layout) -> bool:
        tables = (self.nftables.table(self.name, family) for family in layout.chains)
        return any(table is not None and table.owner not in (0, self.nftables.port) for table in tables)
