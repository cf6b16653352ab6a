"""Direct return: frames to a virtual address are sent on to the elected server's MAC by the kernel, else unchanged.

Rule: nothing is forwarded without a live lease, which is this module's own and not the fence's: after a graceful move
the old gateway forwards a little longer, for neighbours that have not learned the new MAC, though it may no longer
speak as the address.

The server holds the address itself (`loopback`) and answers the client past the gateway. So the gateway knows nothing
of a connection, and another gateway goes on with it. What begins while there is no server, the relay on this gateway
takes, and keeps until it ends (`direct_rules`).
"""

import errno
import ipaddress
import struct
from typing import Final

from gateway.kernel import direct_rules, ethernet, netlink, nft_expressions, nftables
from gateway.kernel.direct_rules import LEASE, Place
from gateway.kernel.fence import LEASE_MS_MAX, LEASE_MS_MIN
from gateway.kernel.netlink import KernelRefused
from gateway.kernel.nft_expressions import Rate
from gateway.kernel.nftables import Batch, Refusal
from gateway.kernel.offload import merges_received
from gateway.kernel.tables import OwnTables

LINGER_MS: Final = (
    1_000  # after this a neighbour has learned the new MAC or asks anew; two holders are never wanted long
)

_COMMENT = "condor-gateway direct"  # how every table of ours begins its comment
_REMEDIES = {errno.ENOENT: "the rules are gone: install them again"}
_TOO_OLD = "`forward direct` needs nf_tables with netdev chains, fwd, and named counters (Linux 5.3 or later)"


class Direct:
    """Forwarding of everything to `ip` that arrives at `device`, in the table `condor-gateway-<name>-direct`.

    `rate` is how fast one client address may make new connections; None: as fast as it likes.

    Nothing is installed by the constructor. All but `install` and `remove` is synchronous and takes microseconds.

    Raises:
        KernelRefused: no such device, not an Ethernet device, or the kernel has no nftables.
    """

    def __init__(self, ip: str, device: str, name: str, *, rate: Rate | None = None) -> None:
        self.ip = str(ipaddress.ip_address(ip))
        self.device = device
        self._rate = rate
        self.table = f"condor-gateway-{name}-direct"
        self._tables = OwnTables(self.table, _COMMENT, "the rules")
        self._nftables = self._tables.nftables
        self._take(self._look())

    def _take(self, place: Place) -> None:
        self._place = place
        self._layout = direct_rules.layout(place)
        self._renewal = self._lease_batch(nftables.DELSETELEM, nftables.NEWSETELEM)
        self._first = self._lease_batch(nftables.NEWSETELEM)
        self._end = self._lease_batch(nftables.DELSETELEM)

    @property
    def state(self) -> str:
        """How far the kernel keeps the rules: "kernel", and what this kernel is too old for."""
        return "kernel" if self._tables.owned else "kernel, others may change it (before Linux 6.9)"

    @property
    def mac(self) -> str:
        """The MAC that the rules take for this gateway's own."""
        return ethernet.mac_text(self._place.mac)

    def install(self, *, keep: bool = False) -> None:
        """Build the rules, without lease and server, in place of what an earlier process has left.

        With `keep` a predecessor's lease, server, held connections and counters stay. Takes milliseconds, and up to
        `tables.OWNER_WAIT_S` while a predecessor dies: call it in a thread. Call it again when `intact` is false: a
        device that vanishes takes the rules along.

        Raises:
            KernelRefused: no permission, another process holds the table, the table is not ours, or the kernel is
                too old. Nothing was changed then.
        """
        self._take(self._look())
        refusal = self._tables.build(self._layout, keep=keep)
        if refusal is None:
            refusal = self._nftables.transact(Batch(direct_rules.rules(self._place)))
        if refusal is not None:
            raise self._refused("build the rules", refusal)

    def follow(self) -> bool:
        """Follow a change of the device's MAC or index. True: the rules were rewritten, in one transaction.

        Raises:
            KernelRefused: the device is gone, or the rules are.
        """
        place = self._look()
        if place == self._place:
            return False
        refusal = self._nftables.transact(Batch(direct_rules.rules(place)))
        if refusal is not None:
            raise self._refused("rewrite the rules", refusal)
        self._take(place)
        return True

    def switch(self, server: str | None) -> None:
        """Let everything go to the server with this MAC from now on.

        None: nobody is elected, or the elected one is not on the segment. What is new is this host's own then, and
        the relay has it until it ends; what is open still goes to the last server, which may be elected again.

        Raises:
            KernelRefused: the rules are gone, or belong to another process.
            ValueError: not the MAC of one host.
        """
        mac = None if server is None else _packed(server)
        refusal = self._nftables.transact(Batch(direct_rules.server_is(self._place, mac)))
        if refusal is not None:
            raise self._refused("switch the server", refusal)

    def hazards(self) -> list[str]:
        """Return what an operator should know of this device, as sentences."""
        if not merges_received(self.device):
            return []
        return [
            f"large receive offload (LRO) is on at {self.device!r}: merged packets cannot be sent on whole, and "
            f"connections stall; switch it off with `ethtool -K {self.device} lro off` (GRO may stay)"
        ]

    # -- the lease -----------------------------------------------------------------------------------------------

    def grant(self, lease_ms: int) -> bool:
        """Forward for `lease_ms` from now, whatever is left of a former lease. False: less than a clock tick.

        `switch` first, also on a standby: a gateway that was never told a server drops what is open.

        Raises:
            KernelRefused: the rules are gone, or belong to another process.
        """
        if lease_ms < LEASE_MS_MIN:
            self.revoke()
            return False
        refusal = self._transact(self._first, lease_ms)
        if refusal is not None and refusal.errno == errno.EEXIST:
            # Only then: to take a lease away that is not there is refused after 11 ms, in which nobody announces.
            self.revoke()
            refusal = self._transact(self._first, lease_ms)
        if refusal is not None:
            raise self._refused("grant the lease", refusal)
        return True

    def extend(self, lease_ms: int) -> bool:
        """Let the lease end `lease_ms` from now. False: it had ended already, and nothing was changed.

        Raises:
            KernelRefused: the rules are gone, or belong to another process.
        """
        if lease_ms < LEASE_MS_MIN:
            self.revoke()
            return False
        refusal = self._transact(self._renewal, lease_ms)
        if refusal is None:
            return True
        if refusal.errno == errno.ENOENT and self.intact():
            return False
        raise self._refused("extend the lease", refusal)

    def linger(self, linger_ms: int = LINGER_MS) -> bool:
        """Go on forwarding for so long (at most `LINGER_MS`) after a graceful resignation, then never more.

        False: the lease had ended already. The one who takes the address over forwards as well: each frame was sent
        to one of the two.

        Raises:
            KernelRefused: the rules are gone, or belong to another process.
        """
        return self.extend(min(linger_ms, LINGER_MS))

    def revoke(self) -> None:
        """Forward nothing from now on. There may be no lease.

        Raises:
            KernelRefused: the rules belong to another process.
        """
        refusal = self._nftables.transact(self._end)
        if refusal is not None and refusal.errno != errno.ENOENT:
            raise self._refused("revoke the lease", refusal)

    # -- observation ---------------------------------------------------------------------------------------------

    def counters(self) -> dict[str, int]:
        """Return what the kernel has counted since the rules were built, also by a former process.

        `packets_total` and `bytes_total` forwarded (bytes with the Ethernet header, not the answers: they pass by),
        `connections_total` (SYNs forwarded, repeated ones too), `datagrams_total`, `held_total` (SYNs, as above),
        `refused_total` (SYNs above the rate of their client, which were dropped).

        Raises:
            KernelRefused: the kernel cannot be asked.
        """
        listed = self._nftables.dump(*nft_expressions.counters_request(self.table))
        counted = nft_expressions.counters_of(listed)
        none = nft_expressions.Counted(0, 0)
        forwarded = counted.get(direct_rules.FORWARDED, none)
        return {
            "packets_total": forwarded.packets,
            "bytes_total": forwarded.bytes,
            "connections_total": counted.get(direct_rules.CONNECTIONS, none).packets,
            "datagrams_total": counted.get(direct_rules.DATAGRAMS, none).packets,
            "held_total": counted.get(direct_rules.COUNTED_HELD, none).packets,
            "refused_total": counted.get(direct_rules.REFUSED, none).packets,
        }

    def intact(self) -> bool:
        """Return whether the table and its chains are there."""
        return self._tables.intact(self._layout)

    def remove(self) -> None:
        """Take the rules away, for a clean stop. Held connections are the relay's until it ends, all else is lost.

        Raises:
            KernelRefused: the table belongs to another process.
        """
        refusal = self._tables.remove()
        self.close()
        if refusal is not None and refusal.errno != errno.ENOENT:
            raise self._refused("remove the rules", refusal)

    def close(self) -> None:
        """Close the socket. The rules stay, idle at the end of the lease, for the next process to adopt."""
        self._tables.close()

    # -- inside --------------------------------------------------------------------------------------------------

    def _look(self) -> Place:
        index = netlink.device_index(self.device)
        mac = ethernet.device_macs().get(self.device)
        if mac is None:
            remedy = "it is not an Ethernet device; `forward direct` needs MAC addresses"
            raise KernelRefused(f"forward at {self.device!r}", errno.EPROTONOSUPPORT, remedy)
        return Place(self.table, self.ip, self.device, index, _packed(mac), self._rate)

    def _lease_batch(self, *kinds: int) -> Batch:
        parts = []
        for kind in kinds:
            adds = kind == nftables.NEWSETELEM
            flags = nftables.CREATE | nftables.EXCL if adds else 0
            timeout_ms = LEASE_MS_MIN if adds else None
            parts.append(nftables.element(kind, flags, self.table, LEASE, self._place.key, timeout_ms))
        return Batch(parts)

    def _transact(self, batch: Batch, lease_ms: int) -> Refusal | None:
        # The last message is an addition, and its timeout the end of that message.
        struct.pack_into("!Q", batch.data, batch.starts[-1] - 8, min(lease_ms, LEASE_MS_MAX))
        return self._nftables.transact(batch)

    def _refused(self, operation: str, refusal: Refusal) -> KernelRefused:
        return self._tables.refused(operation, refusal, _REMEDIES, _TOO_OLD)


def _packed(mac: str) -> bytes:
    """Return the six bytes of the MAC of one host."""
    packed = bytes.fromhex(mac.replace(":", ""))
    if len(packed) != 6 or packed[0] & 1 or not any(packed):
        raise ValueError(f"{mac!r} is not the MAC of one host")
    return packed
