"""The fence: the lease on an address, kept by the kernel. Without a live lease no frame of the address passes.

A table of ours holds a set with one element, the address, that times out, and chains (`fence_rules`) that drop what
the address would say or be told while the element is not there. A process that is frozen, killed or swapped out stops
answering without a line of its code running, at the latest at its lease's end.

Why an expired lease cannot come back by accident: renewing is `delete element` and `add element` in one transaction.
After the expiry the kernel finds nothing to delete and refuses the whole. (`flush` and `add` would revive it.)

What the host may still do without the lease is what any other host may: ask for the address, talk to its holder, and
hear the holder's announcements.

The kernel counts lease time in jiffies, which stand still while the machine is suspended: after a suspend the caller
must judge its lease by CLOCK_BOOTTIME before anything else and `revoke`.
"""

import errno
import hashlib
import ipaddress
import struct
import time

from gateway.kernel import fence_rules, netlink, nftables
from gateway.kernel.fence_rules import Layout
from gateway.kernel.netlink import KernelRefused
from gateway.kernel.nftables import Batch, Nftables, Refusal

LEASE_MS_MIN = 10  # one jiffy at HZ 100; some kernels take a timeout of less than one as "never"
LEASE_MS_MAX = 60_000  # a lease that outlives a minute protects nobody
OWNER_WAIT_S = 2.0  # a killed predecessor holds its table until its memory is torn down
OWNER_LOOK_S = 0.05

_COMMENT = "condor-gateway lease"  # how every table of ours begins its comment
_FAMILIES = {
    nftables.NFPROTO_NETDEV: "netdev",
    nftables.NFPROTO_ARP: "arp",
    nftables.NFPROTO_IPV4: "ip",
    nftables.NFPROTO_IPV6: "ip6",
}


class Fence:
    """The lease on `ip` at `device`, in the table `condor-gateway-<name>`. Nothing is installed by the constructor.

    `grant`, `renew`, `revoke` and `intact` are synchronous and take microseconds.

    Raises:
        KernelRefused: no such device, or the kernel has no nftables.
    """

    def __init__(self, ip: str, device: str, name: str) -> None:
        address = ipaddress.ip_address(ip)
        netlink.device_index(device)
        self.ip = str(address)
        self.device = device
        self.table = f"condor-gateway-{name}"
        self.owned = False  # whether the kernel refuses changes of the table by others
        self.sees_raw_frames = True
        self._key = address.packed
        self._nftables = Nftables()
        self._take(fence_rules.strong(self.table, device, self.ip))

    def _take(self, layout: Layout) -> None:
        self._layout = layout
        # A table of another version, device or address is not adopted but rebuilt.
        self._comment = f"{_COMMENT} {hashlib.sha256(b''.join(layout.filling)).hexdigest()[:12]}"
        self._renewal = self._elements(nftables.DELSETELEM, nftables.NEWSETELEM)
        self._first = self._elements(nftables.NEWSETELEM)
        self._end = self._elements(nftables.DELSETELEM)

    @property
    def state(self) -> str:
        """How far the kernel keeps the lease: "kernel", and what this kernel is too old for."""
        without_owner = "" if self.owned else ", others may change it (before Linux 6.9)"
        without_egress = "" if self.sees_raw_frames else ", raw frames pass (before Linux 5.16)"
        return f"kernel{without_egress}{without_owner}"

    def install(self, *, keep_lease: bool = False) -> None:
        """Build the fence, closed, in one transaction; replaces what an earlier process of ours has left.

        Takes milliseconds, and up to `OWNER_WAIT_S` while a predecessor dies: call it at start, in a thread. With
        `keep_lease` an intact fence of a predecessor is adopted as it is, a live lease included. Call it again when
        `intact` is false: a device that vanishes may take the chains with it.

        Raises:
            KernelRefused: no permission, another process holds the table, the table is not ours, or the kernel is
                too old. Nothing was changed then.
        """
        refusal = self._build_patiently(keep_lease=keep_lease)
        if refusal is not None and refusal.errno == errno.EOPNOTSUPP and self.sees_raw_frames:
            self._take(fence_rules.weak(self.table, self.device, self.ip))
            self.sees_raw_frames = False
            refusal = self._build_patiently(keep_lease=keep_lease)
        if refusal is not None:
            raise self._refused("build the fence", refusal)

    def grant(self, lease_ms: int) -> bool:
        """Open the fence for `lease_ms` from now. False: that is less than a clock tick, and the fence stays shut.

        Raises:
            KernelRefused: a lease still lives (renew or revoke it), or there is no fence.
        """
        if lease_ms < LEASE_MS_MIN:
            return False
        refusal = self._transact(self._first, lease_ms)
        if refusal is not None:
            raise self._refused("grant the lease", refusal)
        return True

    def renew(self, lease_ms: int) -> bool:
        """Let the lease end `lease_ms` from now. False: it had ended already, and nothing was changed.

        Raises:
            KernelRefused: the fence is gone, or belongs to another process.
        """
        if lease_ms < LEASE_MS_MIN:
            self.revoke()
            return False
        refusal = self._transact(self._renewal, lease_ms)
        if refusal is None:
            return True
        if refusal.errno == errno.ENOENT and self.intact():
            return False
        raise self._refused("renew the lease", refusal)

    def revoke(self) -> None:
        """Shut the fence now. There may be no lease.

        Raises:
            KernelRefused: the fence belongs to another process.
        """
        refusal = self._nftables.transact(self._end)
        if refusal is not None and refusal.errno != errno.ENOENT:
            raise self._refused("revoke the lease", refusal)

    def intact(self) -> bool:
        """Return whether the tables and all their chains are there."""
        for family, chains in self._layout.chains.items():
            table = self._nftables.table(self.table, family)
            if table is None or table.comment != self._comment:
                return False
            if not all(self._nftables.has_chain(self.table, chain, family) for chain in chains):
                return False
        return True

    def remove(self) -> None:
        """Take the fence away, for a clean stop: afterwards frames pass. Remove the address first.

        Raises:
            KernelRefused: the table belongs to another process.
        """
        families = self._layout.chains
        refusal = self._nftables.transact(Batch([nftables.delete_table(self.table, family=one) for one in families]))
        self.close()
        if refusal is not None and refusal.errno != errno.ENOENT:
            raise self._refused("remove the fence", refusal)

    def close(self) -> None:
        """Close the socket. The fence stays, shut at the end of its lease, for the next process to adopt."""
        self._nftables.close()

    # -- building ------------------------------------------------------------------------------------------------

    def _build_patiently(self, *, keep_lease: bool) -> Refusal | None:
        deadline = time.monotonic() + OWNER_WAIT_S
        refusal = self._build(keep_lease=keep_lease)
        while refusal is not None and self._owned_by_other() and time.monotonic() < deadline:
            time.sleep(OWNER_LOOK_S)
            refusal = self._build(keep_lease=keep_lease)
        return refusal

    def _build(self, *, keep_lease: bool) -> Refusal | None:
        adopt, clear = self._leftovers()
        if keep_lease and self.intact():
            refusal = self._nftables.transact(Batch(adopt)) if adopt else None
            self.owned = refusal is None and bool(adopt)
            return refusal
        refusal = self._nftables.transact(Batch([*adopt, *clear, *self._tables(owned=True)]))
        if refusal is None or refusal.errno != errno.EOPNOTSUPP:
            self.owned = refusal is None
            return refusal
        # Before Linux 6.9 a table with an owner dies with it, so it must do without one.
        self.owned = False
        return self._nftables.transact(Batch([*adopt, *clear, *self._tables(owned=False)]))

    def _leftovers(self) -> tuple[list[bytes], list[bytes]]:
        """Return the messages that make the tables of a predecessor ours, and those that delete them."""
        adopt, clear = [], []
        flags = nftables.TABLE_OWNER | nftables.TABLE_PERSIST
        for family, nft_name in _FAMILIES.items():
            before = self._nftables.table(self.table, family)
            if before is None:
                continue
            if not before.comment.startswith(_COMMENT):
                remedy = f"a table of that name is there that is not ours: `nft delete table {nft_name} {self.table}`"
                raise KernelRefused(f"build the fence {self.table!r}", errno.EEXIST, remedy)
            if before.flags & nftables.TABLE_PERSIST:  # its owner is gone or is this process: become the owner first
                adopt.append(nftables.new_table(self.table, flags, "", nftables.CREATE, family=family))
            clear.append(nftables.delete_table(self.table, family=family))
        return adopt, clear

    def _tables(self, *, owned: bool) -> list[bytes]:
        """Return the messages that make the tables and fill them."""
        flags = nftables.TABLE_OWNER | nftables.TABLE_PERSIST if owned else 0
        made = [nftables.new_table(self.table, flags, self._comment, family=family) for family in self._layout.chains]
        return [*made, *self._layout.filling]

    # -- the lease -----------------------------------------------------------------------------------------------

    def _elements(self, *kinds: int) -> Batch:
        """Return the transaction that deletes, adds, or deletes and adds the one element, in every family."""
        parts = []
        for family in self._layout.chains:
            for kind in kinds:
                adds = kind == nftables.NEWSETELEM
                flags = nftables.CREATE | nftables.EXCL if adds else 0
                timeout_ms = LEASE_MS_MIN if adds else None
                of_set = fence_rules.SET
                parts.append(nftables.element(kind, flags, self.table, of_set, self._key, timeout_ms, family=family))
        return Batch(parts)

    def _transact(self, batch: Batch, lease_ms: int) -> Refusal | None:
        # Each family's last message is an addition, and its timeout the end of that message.
        per_family = (len(batch.starts) - 2) // len(self._layout.chains)
        for following in range(1 + per_family, len(batch.starts), per_family):
            struct.pack_into("!Q", batch.data, batch.starts[following] - 8, min(lease_ms, LEASE_MS_MAX))
        return self._nftables.transact(batch)

    def _owned_by_other(self) -> bool:
        tables = (self._nftables.table(self.table, family) for family in self._layout.chains)
        return any(table is not None and table.owner not in (0, self._nftables.port) for table in tables)

    def _refused(self, operation: str, refusal: Refusal) -> KernelRefused:
        return KernelRefused(f"{operation} {self.table!r}", refusal.errno, self._remedy(refusal))

    def _remedy(self, refusal: Refusal) -> str:
        if refusal.errno == errno.EPERM and refusal.place < 0:
            return "run as root or give the service CAP_NET_ADMIN"
        if refusal.errno == errno.EPERM:
            return "another process holds it: is another condor-gateway running here?"
        if refusal.errno == errno.EEXIST:
            return "a lease still lives: renew it or revoke it first"
        if refusal.errno == errno.ENOENT:
            return "the fence is gone: install it again"
        return (
            "the kernel cannot hold the lease: it needs nf_tables with netdev chains (Linux 4.2 or later, better 5.16)"
        )
