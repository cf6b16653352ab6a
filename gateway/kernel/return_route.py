"""Return routes: what a gateway has forwarded under the client's own address is answered through that gateway.

Rule: only flows that came from a gateway to a listener of ours are concerned; all else is routed as before.

Under `transparent` a server sees its client's address and would answer it directly; the client knows only the virtual
address, and would drop that. So on the server's node (`ReturnRoute`) a flow is marked by the Ethernet address that its
packets come from, and what is answered in a marked flow goes by a routing table whose only route leads there. On the
gateway (`TransparentReturn`) answers for the relay, whose sockets have the clients' addresses, are taken in as its own.
"""

import errno
import ipaddress
import sys
from collections.abc import Sequence
from typing import Final, NamedTuple

from gateway.kernel import nft_expressions as nft
from gateway.kernel import nftables
from gateway.kernel.marks import GATEWAYS_MAX, LOCAL_MARK, MARK_MASK, MARK_SHIFT, RETURN_FIRST, return_mark
from gateway.kernel.nat_rules import Listener
from gateway.kernel.nft_expressions import word
from gateway.kernel.nftables import NFPROTO_IPV4, NFPROTO_IPV6
from gateway.kernel.policy_routes import PolicyRoute, PolicyRoutes
from gateway.kernel.tables import Layout, OwnTables

_COMMENT: Final = "condor-gateway return"
_AFTER_TRACKING: Final = -150  # the priority that `nft` calls mangle
_ETHERNET: Final = (1).to_bytes(2, sys.byteorder)  # ARPHRD_ETHER
_RESERVED: Final = b"\xff"  # a protocol number that no packet has (RFC 5237)
_ORIGINAL, _REPLY = b"\0", b"\1"
_TOO_OLD: Final = (
    "the kernel cannot mark flows: it needs nf_tables with ct, and for `proxy transparent` with socket and tproxy"
)


class Gateway(NamedTuple):
    """A gateway as its neighbours see it: its own address (not the virtual one), and its Ethernet address."""

    ip: str
    mac: str


class _Returning:
    """Tables and policy routes that belong together."""

    def __init__(self, table: str, layout: Layout, marks: range, routes: Sequence[PolicyRoute]) -> None:
        self.table = table
        self._layout = layout
        self._wanted = list(routes)
        self._tables = OwnTables(table, _COMMENT, "the return route")
        self._routes = PolicyRoutes(marks)

    @property
    def state(self) -> str:
        """How far the kernel keeps it: "kernel", and what this kernel is too old for."""
        return "kernel" if self._tables.owned else "kernel, others may change it (before Linux 6.9)"

    def install(self, *, keep: bool = False) -> None:
        """Put routes and marks there, in place of what an earlier process has left; takes milliseconds: in a thread.

        What is as it should be is not interrupted, also without `keep`.

        Raises:
            KernelRefused: no permission, another process holds the tables, they are not ours, or a gateway cannot be
                reached from here.
        """
        self._tables.ours()  # refuses a foreign table before anything is changed
        self._routes.bring(self._wanted)
        refusal = self._tables.build(self._layout, keep=keep)
        if refusal is not None:
            raise self._tables.refused("build the return route", refusal, {}, _TOO_OLD)

    def intact(self) -> bool:
        """Return whether tables, rules and routes are there."""
        return self._tables.intact(self._layout) and self._routes.present(self._wanted)

    def remove(self) -> None:
        """Take all away, for a clean stop; also what a crash has left, without `install` before.

        Raises:
            KernelRefused: the tables belong to another process.
        """
        refusal = self._tables.remove()
        if refusal is not None and refusal.errno != errno.ENOENT:
            raise self._tables.refused("remove the return route", refusal, {}, _TOO_OLD)
        self._routes.bring([])
        self.close()

    def close(self) -> None:
        """Close the sockets. All stays as it is."""
        self._tables.close()
        self._routes.close()


class ReturnRoute(_Returning):
    """On a server's node: answers go back through the gateway that their questions came through.

    Args:
        cluster: its tables are called `condor-gateway-<cluster>-return`.
        device: where the gateways are neighbours.
        gateways: of both IP versions, without this node itself. They change: make and install another object.
        listeners: where the servers of this node are reached by gateways: own address, protocol and port.

    Raises:
        KernelRefused: the kernel has no nftables, or no such device.
        ValueError: more gateways than marks.
    """

    def __init__(self, cluster: str, device: str, gateways: Sequence[Gateway], listeners: Sequence[Listener]) -> None:
        if len(gateways) > GATEWAYS_MAX:
            raise ValueError(f"{len(gateways)} gateways, but at most {GATEWAYS_MAX} can be told apart")
        table = f"condor-gateway-{cluster}-return"
        marked = {return_mark(number): gateway for number, gateway in enumerate(gateways)}
        routes = [PolicyRoute(_version(one.ip), mark, device, one.ip) for mark, one in marked.items()]
        marks = range(RETURN_FIRST, return_mark(GATEWAYS_MAX), 1 << MARK_SHIFT)
        super().__init__(table, _returning(table, marked, listeners), marks, routes)


class TransparentReturn(_Returning):
    """On a gateway: packets for the relay's sockets are this host's own, although their addresses are the clients'.

    Args:
        cluster: its tables are called `condor-gateway-<cluster>-transparent`.
        version_4: whether there are clients of IPv4.
        version_6: whether there are clients of IPv6.
        translates: whether this gateway translates as well (`kernel.nat`).

    Raises:
        KernelRefused: the kernel has no nftables.
    """

    def __init__(
        self, cluster: str, *, version_4: bool = True, version_6: bool = True, translates: bool = False
    ) -> None:
        table = f"condor-gateway-{cluster}-transparent"
        families = {4: NFPROTO_IPV4, 6: NFPROTO_IPV6}
        versions = [version for version, used in ((4, version_4), (6, version_6)) if used]
        routes = [PolicyRoute(version, LOCAL_MARK, "lo") for version in versions]
        marks = range(LOCAL_MARK, LOCAL_MARK + 1)
        layout = _transparent(table, [families[version] for version in versions], translates=translates)
        super().__init__(table, layout, marks, routes)


def _from(mac: str) -> bytes:
    """Go on only for frames that came from this Ethernet address."""
    return nft.payload(nft.LINK_HEADER, 6, 6) + nft.compare(bytes.fromhex(mac.replace(":", "")))


def _set_mark_of_flow(mark: int) -> bytes:
    changed = nft.ct(nft.CT_MARK) + nft.bitwise(_word_of(~MARK_MASK), _word_of(mark))
    return changed + nft.ct_set(nft.CT_MARK)


def _set_mark_of_packet(mark: int) -> bytes:
    changed = nft.meta(nft.META_MARK) + nft.bitwise(_word_of(~MARK_MASK), _word_of(mark))
    return changed + nft.meta_set(nft.META_MARK)


def _returning(table: str, marked: dict[int, Gateway], listeners: Sequence[Listener]) -> Layout:
    """Return the tables of a server's node.

    chain arriving { prerouting
        iiftype ether, ct direction original, ip daddr . protocol . dport @listeners, ether saddr GATEWAY
            -> ct mark set (ct mark & ~ours) | MARK, return    # of each packet: another gateway may have taken over
        the same without a gateway -> ct mark set ct mark & ~ours
    }
    chain leaving { type route, output
        ct direction reply, ct mark & ours = MARK -> mark set (mark & ~ours) | MARK
    }
    """
    chains: dict[int, tuple[str, ...]] = {}
    filling: list[bytes] = []
    for family in sorted({at.family for at in listeners}):
        here = [at for at in listeners if at.family == family]
        words, target = (1, 16) if family == NFPROTO_IPV4 else (4, 24)
        key_type = (
            nft.concatenated(
                nft.TYPE_IPV4 if family == NFPROTO_IPV4 else nft.TYPE_IPV6, nft.TYPE_PROTOCOL, nft.TYPE_PORT
            ),
            4 * words + 8,
        )
        known = (
            nft.meta(nft.META_IIFTYPE) + nft.compare(_ETHERNET)
            + nft.ct(nft.CT_DIRECTION) + nft.compare(_ORIGINAL)
            + nft.payload(nft.NETWORK_HEADER, target, 4 * words, word(0))
            + nft.meta(nft.META_L4PROTO, word(words))
            + nft.payload(nft.TRANSPORT_HEADER, 2, 2, word(words + 1))
            + nft.lookup("listeners", word(0))
        )  # fmt: skip
        through = {mark: one for mark, one in marked.items() if _version(one.ip) == _version(here[0].ip)}
        rules = [
            ("arriving", known + _from(gateway.mac) + _set_mark_of_flow(mark) + nft.verdict(nft.RETURN))
            for mark, gateway in through.items()
        ]
        rules.append(("arriving", known + _set_mark_of_flow(0)))
        answered = nft.ct(nft.CT_DIRECTION) + nft.compare(_REPLY)
        answered += nft.ct(nft.CT_MARK) + nft.bitwise(_word_of(MARK_MASK), _word_of(0))
        rules += [("leaving", answered + nft.compare(_word_of(mark)) + _set_mark_of_packet(mark)) for mark in through]
        filling += [
            nft.new_collection(table, "listeners", 0, key_type, family=family),
            *(nft.add_element(table, "listeners", at.key, family=family) for at in here),
            nft.new_base_chain(table, "arriving", "filter", nft.HOOK_PREROUTING, _AFTER_TRACKING, family=family),
            nft.new_base_chain(table, "leaving", "route", nft.HOOK_OUTPUT, _AFTER_TRACKING, family=family),
            *(nftables.new_rule(table, name, rule, family=family) for name, rule in rules),
        ]
        chains[family] = ("arriving", "leaving")
    return Layout(chains, tuple(filling))


def _transparent(table: str, families: Sequence[int], *, translates: bool) -> Layout:
    """Return the tables of a gateway: whatever belongs to a transparent socket of this host gets the mark.

    A fragment after the first has no port, and so no socket. They are put together before because the other rule is
    there, which nothing matches; to track all flows would do it as well, and cost more.

    Where flows are translated a client may by chance come from the port that the relay has chosen in its name, towards
    the same server. The kernel then gives its flow another port there; but in the answers it still looks for a socket
    of the first (nf_socket_ipv4.c), which is the relay's. So what is marked as translated is no socket's.
    """
    rule = nft.socket_is_transparent() + nft.compare(b"\1") + _set_mark_of_packet(LOCAL_MARK)
    translated = nft.ct(nft.CT_MARK) + nft.bitwise(_word_of(MARK_MASK), _word_of(0))
    translated += nft.compare(_word_of(0), operator=nft.UNEQUAL) + nft.verdict(nft.RETURN)
    filling: list[bytes] = []
    for family in families:
        unused = nft.meta(nft.META_L4PROTO) + nft.compare(_RESERVED) + nft.immediate(bytes(2))
        unused += nft.transparent_proxy(family, word(0))
        filling += [
            nft.new_base_chain(table, "arriving", "filter", nft.HOOK_PREROUTING, _AFTER_TRACKING, family=family),
            nftables.new_rule(table, "arriving", unused, family=family),
            *([nftables.new_rule(table, "arriving", translated, family=family)] if translates else []),
            nftables.new_rule(table, "arriving", rule, family=family),
        ]
    return Layout(dict.fromkeys(families, ("arriving",)), tuple(filling))


def _version(ip: str) -> int:
    return ipaddress.ip_address(ip).version


def _word_of(value: int) -> bytes:
    """Return a mark as a register holds it: in the host's byte order."""
    return (value & 0xFFFF_FFFF).to_bytes(4, sys.byteorder)
