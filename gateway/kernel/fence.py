"""The fence: the lease on an address, kept by the kernel. Without a live lease no frame of the address passes.

A table of ours holds a set with one element, the address, that times out, and chains (`fence_rules`) that drop what
the address would say or be told while the element is not there. A process that is frozen, killed or swapped out stops
answering without a line of its code running, at the latest at its lease's end.

Why an expired lease cannot come back by accident: renewing is `delete element` and `add element` in one transaction.
After the expiry the kernel finds nothing to delete and refuses the whole. (`flush` and `add` would revive it.)

A second set, renewed in the same transaction, lets TCP in. Who hands the address over shuts that one first (`deafen`):
then it can end its connections by a reset, which still goes out, and no new one comes while it does. Death in between
opens nothing: such a lease is not renewed, and ends as any other.

What the host may still do without the lease is what any other host may: ask for the address, talk to its holder, and
hear the holder's announcements.

The kernel counts lease time in jiffies, which stand still while the machine is suspended: after a suspend the caller
must judge its lease by CLOCK_BOOTTIME before anything else and `revoke`.
"""

import errno
import ipaddress
import struct
from collections.abc import Sequence

from gateway.kernel import fence_rules, netlink, nftables
from gateway.kernel.netlink import KernelRefused
from gateway.kernel.nftables import Batch, Refusal
from gateway.kernel.tables import Layout, OwnTables

LEASE_MS_MIN = 10  # one jiffy at HZ 100; some kernels take a timeout of less than one as "never"
LEASE_MS_MAX = 60_000  # a lease that outlives a minute protects nobody

_COMMENT = "condor-gateway lease"  # how every table of ours begins its comment
_REMEDIES = {
    errno.EEXIST: "a lease still lives: renew it or revoke it first",
    errno.ENOENT: "the fence is gone: install it again",
}
_TOO_OLD = "the kernel cannot hold the lease: it needs nf_tables with netdev chains (Linux 4.2 or later, better 5.16)"


class Fence:
    """The lease on `ip` at `device`, in the table `condor-gateway-<name>`. Nothing is installed by the constructor.

    `grant`, `renew`, `deafen`, `revoke` and `intact` are synchronous and take microseconds.

    Raises:
        KernelRefused: no such device, or the kernel has no nftables.
    """

    def __init__(self, ip: str, device: str, name: str) -> None:
        address = ipaddress.ip_address(ip)
        netlink.device_index(device)
        self.ip = str(address)
        self.device = device
        self.table = f"condor-gateway-{name}"
        self.sees_raw_frames = True
        self._key = address.packed
        self._tables = OwnTables(self.table, _COMMENT, "the fence")
        self._nftables = self._tables.nftables
        self._take(fence_rules.strong(self.table, device, self.ip))

    def _take(self, layout: Layout) -> None:
        leases = [(family, fence_rules.LEASE) for family in layout.chains]
        streams = [(nftables.NFPROTO_NETDEV, fence_rules.STREAMS)]
        self._layout = layout
        self._sets = len(leases) + len(streams)
        self._renewal = self._elements([*leases, *streams], nftables.DELSETELEM, nftables.NEWSETELEM)
        self._first = self._elements([*leases, *streams], nftables.NEWSETELEM)
        self._end = self._elements([*leases, *streams], nftables.DELSETELEM)
        self._end_of_lease = self._elements(leases, nftables.DELSETELEM)
        self._end_of_streams = self._elements(streams, nftables.DELSETELEM)
        self._deaf = False

    @property
    def owned(self) -> bool:
        """Whether the kernel refuses changes of the table by others."""
        return self._tables.owned

    @property
    def state(self) -> str:
        """How far the kernel keeps the lease: "kernel", and what this kernel is too old for."""
        without_owner = "" if self.owned else ", others may change it (before Linux 6.9)"
        without_egress = "" if self.sees_raw_frames else ", raw frames pass (before Linux 5.16)"
        return f"kernel{without_egress}{without_owner}"

    def install(self, *, keep_lease: bool = False) -> bool:
        """Build the fence, closed, in one transaction; replaces what an earlier process of ours has left.

        Takes milliseconds, and two seconds while a predecessor dies: call it at start, in a thread. With
        `keep_lease` an intact fence of a predecessor is adopted as it is, a live lease included; that of another
        version may have other rules, and is replaced. Call it again when `intact` is false: a device that vanishes
        may take the chains with it.

        Returns:
            Whether a fence was adopted. If not it is shut, and whoever holds the address must `grant` anew.

        Raises:
            KernelRefused: no permission, another process holds the table, the table is not ours, or the kernel is
                too old. Nothing was changed then.
        """
        refusal = self._tables.build(self._layout, keep=keep_lease)
        if refusal is not None and refusal.errno == errno.EOPNOTSUPP and self.sees_raw_frames:
            self._take(fence_rules.weak(self.table, self.device, self.ip))
            self.sees_raw_frames = False
            refusal = self._tables.build(self._layout, keep=keep_lease)
        if refusal is not None:
            raise self._refused("build the fence", refusal)
        return self._tables.adopted

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
        self._deaf = False
        return True

    def renew(self, lease_ms: int) -> bool:
        """Let the lease end `lease_ms` from now. False: it had ended already, or `deafen` was called; nothing changed.

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

    def deafen(self) -> None:
        """Let no TCP segment in from now on; all else passes until the lease ends, what is said above all.

        Raises:
            KernelRefused: the fence belongs to another process.
        """
        self._delete(self._end_of_streams)
        self._deaf = True

    def revoke(self) -> None:
        """Shut the fence now. There may be no lease, or one that `deafen` has half ended.

        Raises:
            KernelRefused: the fence belongs to another process.
        """
        # Exactly what there is: a transaction that finds one element missing does nothing, in 15 ms (synchronize_rcu).
        self._delete(self._end_of_lease if self._deaf else self._end)

    def _delete(self, batch: Batch) -> None:
        refusal = self._nftables.transact(batch)
        if refusal is not None and refusal.errno != errno.ENOENT:
            raise self._refused("revoke the lease", refusal)

    def intact(self) -> bool:
        """Return whether the tables and all their chains are there."""
        return self._tables.intact(self._layout)

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

    # -- the lease -----------------------------------------------------------------------------------------------

    def _elements(self, sets: Sequence[tuple[int, str]], *kinds: int) -> Batch:
        """Return the transaction that deletes, adds, or deletes and adds the address in sets, each of a family."""
        parts = []
        for family, of_set in sets:
            for kind in kinds:
                adds = kind == nftables.NEWSETELEM
                flags = nftables.CREATE | nftables.EXCL if adds else 0
                timeout_ms = LEASE_MS_MIN if adds else None
                parts.append(nftables.element(kind, flags, self.table, of_set, self._key, timeout_ms, family=family))
        return Batch(parts)

    def _transact(self, batch: Batch, lease_ms: int) -> Refusal | None:
        # Each set's last message is an addition, and its timeout the end of that message.
        per_set = (len(batch.starts) - 2) // self._sets
        for following in range(1 + per_set, len(batch.starts), per_set):
            struct.pack_into("!Q", batch.data, batch.starts[following] - 8, min(lease_ms, LEASE_MS_MAX))
        return self._nftables.transact(batch)

    def _refused(self, operation: str, refusal: Refusal) -> KernelRefused:
        return self._tables.refused(operation, refusal, _REMEDIES, _TOO_OLD)
