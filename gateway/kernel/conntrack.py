"""Conntrack: the kernel's table of flows, as far as forwarding by translation needs it. It changes nothing but its own.

Rule: flows are dropped and listed by mark and mask only, so that nobody else's are touched.

Any translation makes the kernel track all flows of this host, and a full table drops packets of everybody's. So its
fill is watched: `fill` is cheap (one message), `warnings` reads a few settings besides.
"""

import errno
import socket
import struct
import sys
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from gateway.kernel import netlink
from gateway.kernel.netlink import HEADER, KernelRefused, RouteSocket
from gateway.kernel.sysctl import read_sysctl

FILL_WARNED_AT: Final = 0.8
ESTABLISHED_S_MIN: Final = 3_600  # a pool's connections may say nothing for 900 s, and keepalives come every 7,200 s

_NETLINK_NETFILTER: Final = 12
_SUBSYSTEM: Final = 1 << 8  # NFNL_SUBSYS_CTNETLINK
_GET, _DELETE, _STATS_CPU, _STATS = 1, 2, 4, 5  # IPCTNL_MSG_CT_*
_GENERIC: Final = struct.Struct("!BBH")  # struct nfgenmsg: family, version, resource
_TUPLE_ORIG, _PROTOINFO, _MARK, _MARK_MASK = 1, 4, 8, 21  # CTA_*
_NESTED: Final = 0x8000
_DONE_BYTES: Final = 20  # of NLMSG_DONE: its header and an int
_TCP_ESTABLISHED: Final = 3  # TCP_CONNTRACK_ESTABLISHED
_LOSSES: Final = {9: "insert_failed", 10: "drop", 11: "early_drop"}  # CTA_STATS_*
# CTA_PROTOINFO_TCP, in it CTA_PROTOINFO_TCP_STATE: what each TCP flow of a dump has once
_ESTABLISHED: Final = struct.pack("=HHHB3x", 1 | _NESTED, 5, 1, _TCP_ESTABLISHED)


class Flow(NamedTuple):
    """A flow as the client opened it; addresses packed. `established`: TCP, and both sides still send."""

    protocol: int
    source: bytes
    source_port: int
    target: bytes
    target_port: int
    established: bool


class Fill(NamedTuple):
    """How full the table is: flows of this network namespace, and how many there may be."""

    flows: int
    flows_max: int

    @property
    def fraction(self) -> float:
        """0.0 to 1.0; 0.0 where the kernel sets no limit."""
        return self.flows / self.flows_max if self.flows_max else 0.0


class Losses(NamedTuple):
    """What the table has cost since boot: packets dropped because it was full, flows that made room for others."""

    drop: int
    early_drop: int
    insert_failed: int


class Conntrack:
    """The table of flows of this network namespace.

    Raises:
        KernelRefused: the kernel has no netlink interface to it.
    """

    def __init__(self) -> None:
        self._netlink = _NetfilterSocket()

    def close(self) -> None:
        """Close the socket. Flows stay."""
        self._netlink.close()

    def flush(self, mark: int, mask: int) -> None:
        """Drop all flows whose mark is `mark` under `mask`; their next packets are those of new flows.

        The kernel looks at every flow once, inside of one message (Linux 4.1; before, this would drop *all* flows, but
        such a kernel has no table of ours either).

        Raises:
            KernelRefused: no permission, or no marks (CONFIG_NF_CONNTRACK_MARK).
        """
        answer = self._netlink.request(_message(_DELETE, netlink.NLM_F_ACK, _marked(mark, mask)))
        if answer.errno not in (0, errno.ENOENT):
            remedy = answer.said or "run as root or give the service CAP_NET_ADMIN"
            raise KernelRefused("drop the flows of a former server", answer.errno, remedy)

    def flows(self, mark: int, mask: int) -> Iterator[Flow]:
        """Return the flows whose mark is `mark` under `mask`, as they are now; they are read one by one.

        Ten thousand take 0.1 s: in a thread.

        Raises:
            KernelRefused: no permission.
        """
        listed = self._netlink.dump(_message(_GET, netlink.NLM_F_DUMP, _marked(mark, mask)))
        return (flow for flow in map(_flow_of, (message.body for message in listed)) if flow is not None)

    def established(self, mark: int, mask: int) -> int:
        """Return how many TCP connections with `mark` under `mask` there are whose two sides still send.

        Nothing is parsed: the kernel's answer is searched for this state. Ten thousand take 70 ms, nearly all of it the
        kernel's own: in a thread, which holds the interpreter up for microseconds only.

        Raises:
            KernelRefused: no permission.
        """
        request = _message(_GET, netlink.NLM_F_DUMP, _marked(mark, mask))
        return sum(answer.count(_ESTABLISHED) for answer in self._netlink.dump_raw(request))

    def fill(self) -> Fill:
        """Return how full the table is.

        Raises:
            KernelRefused: the kernel does not say.
        """
        answers = self._netlink.ask(_message(_STATS, 0, b""))
        numbers = {kind: _number(value) for kind, value in netlink.attributes(answers.body, _GENERIC.size)}
        if 2 not in numbers:  # CTA_STATS_GLOBAL_MAX_ENTRIES: Linux 4.18
            numbers[2] = int(read_sysctl("net/netfilter/nf_conntrack_max"))
        return Fill(numbers.get(1, 0), numbers[2])

    def losses(self) -> Losses:
        """Return what a full table has cost so far, of all CPUs together.

        Raises:
            KernelRefused: the kernel does not say.
        """
        totals = dict.fromkeys(Losses._fields, 0)
        for message in self._netlink.dump(_message(_STATS_CPU, netlink.NLM_F_DUMP, b"")):
            for kind, value in netlink.attributes(message.body, _GENERIC.size):
                if kind in _LOSSES:
                    totals[_LOSSES[kind]] += _number(value)
        return Losses(**totals)

    def warnings(self) -> list[str]:
        """Return what the operator should know: a table nearly full, or timeouts that forget open connections.

        Raises:
            KernelRefused: the kernel does not say.
        """
        said = []
        fill = self.fill()
        if fill.fraction >= FILL_WARNED_AT:
            said.append(
                f"the kernel tracks {fill.flows} of at most {fill.flows_max} flows and drops packets beyond: "
                f"set net.netfilter.nf_conntrack_max to {2 * fill.flows_max} or more"
            )
        kept_s = int(read_sysctl("net/netfilter/nf_conntrack_tcp_timeout_established"))
        if kept_s < ESTABLISHED_S_MIN:
            said.append(
                f"the kernel forgets idle connections after {kept_s} s, and the pool's are idle for longer: "
                f"set net.netfilter.nf_conntrack_tcp_timeout_established to {ESTABLISHED_S_MIN} or more"
            )
        return said


class _NetfilterSocket(RouteSocket):
    """A socket for requests to netfilter instead of routing; the manners are the same."""

    def __init__(self) -> None:
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_NETFILTER)
            for option in (netlink.NETLINK_CAP_ACK, netlink.NETLINK_EXT_ACK):
                self._socket.setsockopt(netlink.SOL_NETLINK, option, 1)
            self._socket.bind((0, 0))
        except OSError as error:
            remedy = "`forward nat` needs connection tracking in the kernel (nf_conntrack_netlink)"
            raise KernelRefused("open a netfilter socket", error.errno or 0, remedy) from error
        self._sequence = 0

    def ask(self, message: bytearray) -> netlink.Message:
        """Send a request that has one answer and return it."""
        sequence = self._send(message)
        while True:  # ends with the answer, or with an empty queue
            for part in netlink.split(self._receive()):
                if part.sequence == sequence and part.kind == netlink.NLMSG_ERROR:
                    (code,) = struct.unpack_from("=i", part.body)
                    raise KernelRefused("read the table of flows", -code, "run as root or give CAP_NET_ADMIN")
                if part.sequence == sequence:
                    return part

    def dump_raw(self, message: bytearray) -> Iterator[bytes]:
        """Send a dump request and return the datagrams of the answer, each as it came.

        Raises:
            KernelRefused: the kernel answered with an error.
        """
        sequence = self._send(message)
        while True:  # ends with NLMSG_DONE, an error, or an empty queue
            data = self._receive()
            _, kind, _, number, _ = HEADER.unpack_from(data)
            if number != sequence:
                continue
            if kind == netlink.NLMSG_ERROR:
                (code,) = struct.unpack_from("=i", data, HEADER.size)
                raise KernelRefused("read the table of flows", -code, "run as root or give CAP_NET_ADMIN")
            yield data
            # NLMSG_DONE has a datagram of its own, or is the last of one: 20 bytes, the kernel's number of errors.
            done = HEADER.unpack_from(data, len(data) - _DONE_BYTES) if len(data) >= _DONE_BYTES else None
            if kind == netlink.NLMSG_DONE or (done is not None and done[:2] == (_DONE_BYTES, netlink.NLMSG_DONE)):
                return


def _message(kind: int, flags: int, attributes: bytes) -> bytearray:
    body = _GENERIC.pack(socket.AF_UNSPEC, 0, 0) + attributes
    header = HEADER.pack(HEADER.size + len(body), _SUBSYSTEM | kind, flags | netlink.NLM_F_REQUEST, 0, 0)
    return bytearray(header + body)


def _marked(mark: int, mask: int) -> bytes:
    numbers = ((_MARK, mark), (_MARK_MASK, mask))
    return b"".join(netlink.ATTRIBUTE.pack(8, kind) + value.to_bytes(4, "big") for kind, value in numbers)


def _flow_of(body: memoryview) -> Flow | None:
    """Read a flow; None: of a protocol without ports.

    The kernel writes the client's half first and always in the same way, so one look reads it: a switch of servers
    reads ten thousand of them.
    """
    begin = bytes(body[_GENERIC.size : _GENERIC.size + 12])
    layout = _HALVES.get(begin)
    if layout is None:
        return _flow_of_other_layout(body)
    source, target, protocol, source_port, target_port = layout.unpack_from(body, _GENERIC.size)
    place = _GENERIC.size + int.from_bytes(begin[:2], sys.byteorder)
    end = len(body)
    established = False
    while place + 4 <= end:
        length, kind = netlink.ATTRIBUTE.unpack_from(body, place)
        if kind & netlink.NLA_TYPE_MASK == _PROTOINFO:
            established = length > 12 and body[place + 12] == _TCP_ESTABLISHED  # CTA_PROTOINFO_TCP, _TCP_STATE
            break
        place += max(4, (length + 3) & ~3)
    return Flow(protocol, source, source_port, target, target_port, established)


def _flow_of_other_layout(body: memoryview) -> Flow | None:
    parts = dict(netlink.attributes(body, _GENERIC.size))
    halves = _inside(parts.get(_TUPLE_ORIG))
    ip, protocol = _inside(halves.get(1)), _inside(halves.get(2))
    source, target = ip.get(1) or ip.get(3), ip.get(2) or ip.get(4)  # CTA_IP_V4_SRC or V6_SRC, ..._DST
    if source is None or target is None or 2 not in protocol or 3 not in protocol:
        return None
    tcp = _inside(_inside(parts.get(_PROTOINFO)).get(1))
    established = 1 in tcp and _number(tcp[1]) == _TCP_ESTABLISHED
    ports = _number(protocol[2]), _number(protocol[3])
    return Flow(_number(protocol[1]), bytes(source), ports[0], bytes(target), ports[1], established)


def _inside(value: memoryview | None) -> Mapping[int, memoryview]:
    return dict(netlink.attributes(value, 0)) if value is not None else {}


def _half(address_bytes: int, source: int) -> tuple[bytes, struct.Struct]:
    """Return how the client's half of a flow with ports begins, and how it is laid out: three nested attributes."""
    addresses, ports = 2 * (4 + address_bytes), 3 * 8
    lengths = ((4 + 4 + addresses + 4 + ports, _TUPLE_ORIG | _NESTED), (4 + addresses, 1 | _NESTED))
    begin = b"".join(netlink.ATTRIBUTE.pack(*one) for one in (*lengths, (4 + address_bytes, source)))
    return begin, struct.Struct(f"!12x{address_bytes}s4x{address_bytes}s8xB3x4xH2x4xH")


_HALVES: Final = dict([_half(4, 1), _half(16, 3)])


def _number(value: memoryview) -> int:
    return int.from_bytes(value, "big")
