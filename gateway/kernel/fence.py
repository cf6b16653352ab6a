"""The fence: the lease on an address, kept by the kernel. Without a live lease no frame of the address passes.

One netdev table of ours holds a set with one element, the address, that times out, and an ingress and an egress
chain on the device that drop what the address would say or be told while the element is not there. A process that
is frozen, killed or swapped out stops answering without a line of its code running, at the latest at its lease's end.

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

from gateway.kernel import netlink, nftables
from gateway.kernel.netlink import KernelRefused
from gateway.kernel.nftables import Batch, Nftables, Refusal

LEASE_MS_MIN = 10  # one jiffy at HZ 100; some kernels take a timeout of less than one as "never"
LEASE_MS_MAX = 60_000  # a lease that outlives a minute protects nobody
PRIORITY = -500  # before every other chain of the device, forwarding rules of our own among them
OWNER_WAIT_S = 2.0  # a killed predecessor holds its table until its memory is torn down
OWNER_LOOK_S = 0.05

_SET = "lease"
_INGRESS, _EGRESS = "ingress", "egress"
_IPV4, _IPV6, _ARP = 0x0800, 0x86DD, 0x0806
_ICMPV6 = b"\x3a"
_NEIGHBOUR_SOLICITATION, _NEIGHBOUR_ADVERTISEMENT = b"\x87", b"\x88"
_KEY_TYPE_IPV4, _KEY_TYPE_IPV6 = 7, 8  # what `nft` calls ipv4_addr and ipv6_addr


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
        self._key = address.packed
        self._nftables = Nftables()
        contents = self._contents()
        # A table of another version, device or address is not adopted but rebuilt.
        digest = hashlib.sha256(b"".join(contents)).hexdigest()[:12]
        self._comment_stem = "condor-gateway lease"
        self._comment = f"{self._comment_stem} {digest}"
        self._filling = contents
        self._renewal = self._elements(nftables.DELSETELEM, nftables.NEWSETELEM)
        self._first = self._elements(nftables.NEWSETELEM)
        self._end = self._elements(nftables.DELSETELEM)

    def install(self, *, keep_lease: bool = False) -> None:
        """Build the fence, closed, in one transaction; replaces what an earlier process of ours has left.

        Takes milliseconds, and up to `OWNER_WAIT_S` while a predecessor dies: call it at start, in a thread. With
        `keep_lease` an intact fence of a predecessor is adopted as it is, a live lease included. Call it again when
        `intact` is false: a device that vanishes may take the chains with it.

        Raises:
            KernelRefused: no permission, another process holds the table, the table is not ours, or the kernel is
                too old. Nothing was changed then.
        """
        deadline = time.monotonic() + OWNER_WAIT_S
        refusal = self._build(keep_lease=keep_lease)
        while refusal is not None and self._owned_by_other() and time.monotonic() < deadline:
            time.sleep(OWNER_LOOK_S)
            refusal = self._build(keep_lease=keep_lease)
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
        """Return whether the table and both chains are there."""
        table = self._nftables.table(self.table)
        if table is None or table.comment != self._comment:
            return False
        return all(self._nftables.has_chain(self.table, chain) for chain in (_INGRESS, _EGRESS))

    def remove(self) -> None:
        """Take the fence away, for a clean stop: afterwards frames pass. Remove the address first.

        Raises:
            KernelRefused: the table belongs to another process.
        """
        refusal = self._nftables.transact(Batch([nftables.delete_table(self.table)]))
        self.close()
        if refusal is not None and refusal.errno != errno.ENOENT:
            raise self._refused("remove the fence", refusal)

    def close(self) -> None:
        """Close the socket. The fence stays, shut at the end of its lease, for the next process to adopt."""
        self._nftables.close()

    # -- building ------------------------------------------------------------------------------------------------

    def _build(self, *, keep_lease: bool) -> Refusal | None:
        before = self._nftables.table(self.table)
        if before is not None and not before.comment.startswith(self._comment_stem):
            remedy = f"a table of that name is there that is not ours: `nft delete table netdev {self.table}`"
            raise KernelRefused(f"build the fence {self.table!r}", errno.EEXIST, remedy)
        flags = nftables.TABLE_OWNER | nftables.TABLE_PERSIST
        clear: list[bytes] = []
        if before is not None:
            clear = [nftables.delete_table(self.table)]
            if before.flags & nftables.TABLE_PERSIST:  # its owner is gone or is this process: become the owner first
                clear.insert(0, nftables.new_table(self.table, flags, "", message_flags=nftables.CREATE))
            if keep_lease and self.intact():
                refusal = self._nftables.transact(Batch(clear[:-1])) if clear[:-1] else None
                self.owned = refusal is None and bool(clear[:-1])
                return refusal
        make = [nftables.new_table(self.table, flags, self._comment), *self._filling]
        refusal = self._nftables.transact(Batch(clear + make))
        if refusal is None or refusal.errno != errno.EOPNOTSUPP:
            self.owned = refusal is None
            return refusal
        # Before Linux 6.9 a table with an owner dies with it, so it must do without one.
        make[0] = nftables.new_table(self.table, 0, self._comment)
        self.owned = False
        return self._nftables.transact(Batch(clear + make))

    def _contents(self) -> list[bytes]:
        """Return the messages that fill the table: the set, both chains, their rules."""
        version_4 = len(self._key) == 4
        key_type = _KEY_TYPE_IPV4 if version_4 else _KEY_TYPE_IPV6
        ingress, egress = self._rules_ipv4() if version_4 else self._rules_ipv6()
        return [
            nftables.new_set(self.table, _SET, key_type, len(self._key)),
            nftables.new_chain(self.table, _INGRESS, nftables.HOOK_INGRESS, self.device, PRIORITY),
            nftables.new_chain(self.table, _EGRESS, nftables.HOOK_EGRESS, self.device, PRIORITY),
            *(nftables.new_rule(self.table, _INGRESS, rule) for rule in ingress),
            *(nftables.new_rule(self.table, _EGRESS, rule) for rule in egress),
        ]

    def _rules_ipv4(self) -> tuple[list[bytes], list[bytes]]:
        """Return what is told to the address, and what it says. IPv4: source at 12, target at 16.

        ARP: sender's address at 14, target's at 24. A frame whose sender *is* the address is the holder's own
        announcement, which this host must hear as any other.
        """
        packet, arp = nftables.protocol_is(_IPV4), nftables.protocol_is(_ARP)
        not_the_holder = nftables.field_is_not(14, self._key)
        return (
            [packet + self._shut(16), arp + not_the_holder + self._shut(24)],
            [packet + self._shut(12), arp + self._shut(14)],
        )

    def _rules_ipv6(self) -> tuple[list[bytes], list[bytes]]:
        """Return what is told to the address, and what it says. IPv6: next header at 6, source at 8, target at 24.

        Neighbour discovery (RFC 4861 §4.3, §4.4) has no extension headers: type at 40, target address at 48.
        """
        packet = nftables.protocol_is(_IPV6)
        icmpv6 = packet + nftables.field_is(6, _ICMPV6)
        asked = icmpv6 + nftables.field_is(40, _NEIGHBOUR_SOLICITATION)
        answered = icmpv6 + nftables.field_is(40, _NEIGHBOUR_ADVERTISEMENT)
        return (
            [packet + self._shut(24), asked + self._shut(48)],
            [packet + self._shut(8), answered + self._shut(48)],
        )

    def _shut(self, offset: int) -> bytes:
        """Return the expressions that drop a frame with the address at `offset`, unless its lease lives."""
        return nftables.field_is(offset, self._key) + nftables.drop_unless_in(_SET, offset, len(self._key))

    # -- the lease -----------------------------------------------------------------------------------------------

    def _elements(self, *kinds: int) -> Batch:
        """Return the transaction that deletes, adds, or deletes and adds the one element."""
        parts = []
        for kind in kinds:
            adds = kind == nftables.NEWSETELEM
            flags = nftables.CREATE | nftables.EXCL if adds else 0
            parts.append(nftables.element(kind, flags, self.table, _SET, self._key, LEASE_MS_MIN if adds else None))
        return Batch(parts)

    def _transact(self, batch: Batch, lease_ms: int) -> Refusal | None:
        # The timeout is the end of the last message, just before the batch's own end.
        struct.pack_into("!Q", batch.data, batch.starts[-1] - 8, min(lease_ms, LEASE_MS_MAX))
        return self._nftables.transact(batch)

    def _owned_by_other(self) -> bool:
        table = self._nftables.table(self.table)
        return table is not None and table.owner not in (0, self._nftables.port)

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
        return "the kernel cannot hold the lease: it needs nf_tables with netdev egress chains (Linux 5.16 or later)"
