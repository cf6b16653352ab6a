"""nftables over netlink, encoded by hand: the few messages that a fence needs, and their transactions.

A transaction is one datagram; the kernel carries it out inside `send`, whole or not at all, and queues its answers
there. Hand-encoding is worth its lines: 14 us for what takes libnftables 0.8 ms and the `nft` command 18 ms.
Numbers are those of linux/netfilter/nf_tables.h; integers in attributes are big-endian.
"""

import errno
import socket
import struct
from collections.abc import Sequence
from typing import NamedTuple

from gateway.kernel import netlink
from gateway.kernel.netlink import HEADER, KernelRefused, Message

NEWTABLE, GETTABLE, DELTABLE = 0, 1, 2
NEWCHAIN, GETCHAIN = 3, 4
NEWRULE = 6
NEWSET = 9
NEWSETELEM, DELSETELEM = 12, 14
TABLE_OWNER, TABLE_PERSIST = 0x2, 0x4  # Linux 5.12, 6.9
HOOK_INGRESS, HOOK_EGRESS = 0, 1  # egress: Linux 5.16
CREATE, EXCL, APPEND = 0x400, 0x200, 0x800
META_PROTOCOL = 1
NFPROTO_IPV4, NFPROTO_ARP, NFPROTO_NETDEV, NFPROTO_IPV6 = 2, 3, 5, 10

_NETLINK_NETFILTER = 12
_SUBSYSTEM = 10 << 8  # NFNL_SUBSYS_NFTABLES
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_GENERIC = struct.Struct("!BBH")  # struct nfgenmsg: family, version, resource
GENERIC_BYTES = _GENERIC.size  # where the attributes of a message's body begin
_NESTED = 0x8000
_REGISTER_1, _VERDICT_REGISTER = 1, 0
_NETWORK_HEADER = 1
_SET_TIMEOUT = 0x10
_ANSWER_BYTES_MAX = 16_384


class Refusal(NamedTuple):
    """Why a transaction was aborted: the place of the message in it (-1: the whole), and the kernel's errno."""

    place: int
    errno: int


class Table(NamedTuple):
    """A table that there is: its flags, the netlink port of its owner (0: none), and its comment."""

    flags: int
    owner: int
    comment: str


class Batch:
    """A transaction encoded once and sent often; only sequence numbers, and what the owner patches, change.

    Args:
        messages: as `message` returns them. The last one's answer says that all was done.
    """

    def __init__(self, messages: Sequence[bytes]) -> None:
        begin = _encode(_BATCH_BEGIN, 0, _GENERIC.pack(0, 0, _SUBSYSTEM >> 8))
        end = _encode(_BATCH_END, 0, _GENERIC.pack(0, 0, _SUBSYSTEM >> 8))
        self.data = bytearray()
        self.starts: list[int] = []  # where each part begins, the batch's own begin first
        for part in (begin, *messages, end):
            self.starts.append(len(self.data))
            self.data += part
        (flags,) = struct.unpack_from("=H", self.data, self.starts[-2] + 6)
        struct.pack_into("=H", self.data, self.starts[-2] + 6, flags | netlink.NLM_F_ACK)


class Nftables:
    """A NETLINK_NETFILTER socket. Tables made through it with TABLE_OWNER are nobody else's to change.

    Raises:
        KernelRefused: the kernel has no nftables.
    """

    def __init__(self) -> None:
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_NETFILTER)
            self._socket.bind((0, 0))
        except OSError as error:
            remedy = "the lease cannot be kept in the kernel: it needs nf_tables (Linux 5.16 or later)"
            raise KernelRefused("open a netfilter socket", error.errno or 0, remedy) from error
        self._sequence = 0

    @property
    def port(self) -> int:
        """The netlink port of this socket: what the kernel calls the owner of its tables."""
        port: int = self._socket.getsockname()[0]
        return port

    def close(self) -> None:
        """Close the socket: tables owned through it lose their owner, and those without TABLE_PERSIST vanish."""
        self._socket.close()

    def transact(self, batch: Batch) -> Refusal | None:
        """Carry out `batch`, whole or not at all. None: done; else the first thing that the kernel refused."""
        self._answers()  # what is left of an earlier exchange: an aborted batch has several answers
        first = self._sequence + 1
        for place, start in enumerate(batch.starts):
            struct.pack_into("=I", batch.data, start + 8, first + place)
        self._sequence = (first + len(batch.starts)) & 0x3FFFFFFF
        try:
            self._socket.send(batch.data)
        except OSError as error:
            return Refusal(-1, error.errno or errno.EIO)
        acknowledged = False
        refusals: list[Refusal] = []
        for part in self._answers():
            place = part.sequence - first - 1
            if part.kind == netlink.NLMSG_ERROR and -1 <= place < len(batch.starts):
                (code,) = struct.unpack_from("=i", part.body)
                if code:
                    refusals.append(Refusal(place, -code))
                acknowledged = True
        if refusals:
            return min(refusals)
        return None if acknowledged else Refusal(-1, errno.EAGAIN)

    def table(self, name: str, family: int = NFPROTO_NETDEV) -> Table | None:
        """Return the table called `name`, None where there is none."""
        answer = self._ask(GETTABLE, string(1, name), family)
        if answer is None:
            return None
        flags, owner, comment = 0, 0, ""
        for kind, value in netlink.attributes(answer.body, _GENERIC.size):
            if kind == 2:
                flags = int.from_bytes(value, "big")
            elif kind == 6:
                comment = _comment_of(bytes(value))
            elif kind == 7:
                owner = int.from_bytes(value, "big")
        return Table(flags, owner, comment)

    def has_chain(self, table: str, chain: str, family: int = NFPROTO_NETDEV) -> bool:
        """Return whether the table has that chain; chains vanish with their device."""
        return self._ask(GETCHAIN, string(1, table) + string(3, chain), family) is not None

    def dump(self, kind: int, attributes: bytes, family: int = NFPROTO_NETDEV) -> list[Message]:
        """Return all that the kernel lists for a GET request; nothing where the table does not exist.

        Raises:
            KernelRefused: no permission, or the tables would not stand still.
        """
        for _ in range(netlink.DUMP_TRIES_MAX):
            listed = self._dump_once(kind, attributes, family)
            if listed is not None:
                return listed
        raise KernelRefused("read the kernel's tables", errno.EINTR, "they change without pause; try again")

    def _dump_once(self, kind: int, attributes: bytes, family: int) -> list[Message] | None:
        self._answers()  # what is left of an earlier exchange
        self._sequence = (self._sequence + 1) & 0x3FFFFFFF
        request = bytearray(message(kind, netlink.NLM_F_DUMP, attributes, family))
        struct.pack_into("=I", request, 8, self._sequence)
        try:
            self._socket.send(request)
        except OSError as error:
            raise KernelRefused("read the kernel's tables", error.errno or 0, "nothing was changed") from error
        parts = [part for part in self._answers() if part.sequence == self._sequence]
        for part in parts:
            if part.kind == netlink.NLMSG_ERROR:
                (code,) = struct.unpack_from("=i", part.body)
                if code == -errno.ENOENT:
                    return []
                raise KernelRefused("read the kernel's tables", -code, "run as root or give the service CAP_NET_ADMIN")
        if not parts or any(part.flags & netlink.NLM_F_DUMP_INTR for part in parts):
            return None
        return [part for part in parts if part.kind != netlink.NLMSG_DONE]

    def _ask(self, kind: int, attributes: bytes, family: int) -> Message | None:
        self._answers()  # what is left of an earlier exchange
        self._sequence = (self._sequence + 1) & 0x3FFFFFFF
        request = bytearray(message(kind, 0, attributes, family))
        struct.pack_into("=I", request, 8, self._sequence)
        try:
            self._socket.send(request)
        except OSError as error:
            raise KernelRefused("read the kernel's tables", error.errno or 0, "nothing was changed") from error
        for part in self._answers():
            if part.sequence == self._sequence:
                if part.kind != netlink.NLMSG_ERROR:
                    return part
                (code,) = struct.unpack_from("=i", part.body)
                if code == -errno.ENOENT:
                    return None
                remedy = "run as root or give the service CAP_NET_ADMIN"
                raise KernelRefused("read the kernel's tables", -code, remedy)
        return None

    def _answers(self) -> list[Message]:
        parts: list[Message] = []
        while True:  # until the queue is empty
            try:
                data = self._socket.recv(_ANSWER_BYTES_MAX)
            except BlockingIOError:
                return parts
            except OSError as error:  # ENOBUFS: an answer was lost, and the caller sees that it is missing
                if error.errno != errno.ENOBUFS:
                    raise KernelRefused(
                        "read the kernel's answer", error.errno or 0, "what it did is unknown"
                    ) from error
                continue
            parts += netlink.split(data)


def message(kind: int, flags: int, attributes: bytes, family: int = NFPROTO_NETDEV) -> bytes:
    """Return one nftables message; `flags` beside NLM_F_REQUEST."""
    return _encode(_SUBSYSTEM | kind, flags, _GENERIC.pack(family, 0, 0) + attributes)


def attribute(kind: int, value: bytes) -> bytes:
    """Return one attribute, padded to four bytes."""
    length = netlink.ATTRIBUTE.size + len(value)
    return netlink.ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def nested(kind: int, *parts: bytes) -> bytes:
    """Return an attribute that holds others."""
    return attribute(kind | _NESTED, b"".join(parts))


def string(kind: int, value: str) -> bytes:
    """Return an attribute with a NUL-terminated string."""
    return attribute(kind, value.encode() + b"\0")


def number(kind: int, value: int) -> bytes:
    """Return an attribute with a big-endian 32-bit number."""
    return attribute(kind, struct.pack("!I", value & 0xFFFFFFFF))


def new_table(
    name: str, flags: int, comment: str, message_flags: int = CREATE | EXCL, *, family: int = NFPROTO_NETDEV
) -> bytes:
    """Return the message that makes a table, or (without EXCL) adopts one; `nft list` shows the comment."""
    text = comment.encode() + b"\0"
    userdata = struct.pack("BB", 0, len(text)) + text  # type, length, value: a comment, as libnftnl writes it
    attributes = string(1, name) + number(2, flags) + attribute(6, userdata)
    return message(NEWTABLE, message_flags, attributes, family)


def delete_table(name: str, *, family: int = NFPROTO_NETDEV) -> bytes:
    """Return the message that deletes a table with all that is in it."""
    return message(DELTABLE, 0, string(1, name), family)


def new_set(table: str, name: str, key_type: int, key_bytes: int, *, family: int = NFPROTO_NETDEV) -> bytes:
    """Return the message that makes a set of addresses whose elements time out."""
    attributes = string(1, table) + string(2, name) + number(3, _SET_TIMEOUT) + number(4, key_type)
    return message(NEWSET, CREATE | EXCL, attributes + number(5, key_bytes) + number(10, 1), family)


def new_chain(
    table: str, name: str, hook: int, device: str | None, priority: int, *, family: int = NFPROTO_NETDEV
) -> bytes:
    """Return the message that makes a base chain (in netdev: on `device`); what no rule drops passes."""
    where = [string(3, device)] if device is not None else []
    hooked = nested(4, number(1, hook), number(2, priority), *where)
    attributes = string(1, table) + string(3, name) + hooked + number(5, 1) + string(7, "filter")
    return message(NEWCHAIN, CREATE | EXCL, attributes, family)


def new_rule(table: str, chain: str, *expressions: bytes, family: int = NFPROTO_NETDEV) -> bytes:
    """Return the message that appends a rule to a chain."""
    attributes = string(1, table) + string(2, chain) + nested(4, *expressions)
    return message(NEWRULE, CREATE | APPEND, attributes, family)


def element(
    kind: int,
    flags: int,
    table: str,
    of_set: str,
    key: bytes,
    timeout_ms: int | None = None,
    *,
    family: int = NFPROTO_NETDEV,
) -> bytes:
    """Return a NEWSETELEM or DELSETELEM message for one element; a timeout is the last 8 bytes of the message."""
    inside = nested(1, attribute(1, key))
    if timeout_ms is not None:
        inside += attribute(4, struct.pack("!Q", timeout_ms))
    return message(kind, flags, string(1, table) + string(2, of_set) + nested(3, nested(1, inside)), family)


def protocol_is(ether_type: int) -> bytes:
    """Return the expressions that go on only for frames of that EtherType."""
    return _expression("meta", number(1, _REGISTER_1), number(2, META_PROTOCOL)) + _compare(
        ether_type.to_bytes(2, "big")
    )


def field_is(offset: int, value: bytes) -> bytes:
    """Return the expressions that go on only if the network header has `value` at `offset`."""
    return _load(offset, len(value)) + _compare(value)


def field_is_not(offset: int, value: bytes) -> bytes:
    """Return the expressions that go on only if the network header has another value than `value` at `offset`."""
    return _load(offset, len(value)) + _compare(value, unequal=True)


def drop_unless_in(of_set: str, offset: int, length: int) -> bytes:
    """Return the expressions that drop the frame unless the field at `offset` is a live element of the set."""
    absent = _expression("lookup", string(1, of_set), number(2, _REGISTER_1), number(5, 1))
    verdict = nested(2, nested(2, number(1, 0)))  # NF_DROP
    return _load(offset, length) + absent + _expression("immediate", number(1, _VERDICT_REGISTER), verdict)


def _load(offset: int, length: int) -> bytes:
    where = number(2, _NETWORK_HEADER) + number(3, offset) + number(4, length)
    return _expression("payload", number(1, _REGISTER_1), where)


def _compare(value: bytes, *, unequal: bool = False) -> bytes:
    against = nested(3, attribute(1, value))
    return _expression("cmp", number(1, _REGISTER_1), number(2, int(unequal)), against)


def _expression(name: str, *attributes: bytes) -> bytes:
    """Return one element of a rule's list of expressions."""
    return nested(1, string(1, name), nested(2, *attributes))


def _encode(kind: int, flags: int, body: bytes) -> bytes:
    return HEADER.pack(HEADER.size + len(body), kind, flags | netlink.NLM_F_REQUEST, 0, 0) + body


def _comment_of(userdata: bytes) -> str:
    """Return the comment that leads a table's user data; "" where something else does."""
    if len(userdata) < 2 or userdata[0] != 0:
        return ""
    return userdata[2 : 2 + userdata[1]].rstrip(b"\0").decode("utf-8", "replace")
