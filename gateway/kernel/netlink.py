"""Route netlink: prebuilt messages out, the kernel's answers back, in one synchronous exchange of microseconds.

Nothing waits here. rtnetlink does its work and queues its answer inside `send`, so the answer is read from a
non-blocking socket at once. Requests with attributes are pyroute2's, made by `gateway.kernel.maker` in a process of
its own, because pyroute2 brings 10 MB and asyncio along. Answers are read by `struct`: pyroute2's decoder takes as long
as a hundred such exchanges.
"""

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from gateway.kernel.templates import templates

# linux/netlink.h and linux/rtnetlink.h; Python's socket module has none of these.
SOL_NETLINK = 270
NETLINK_CAP_ACK = 10
NETLINK_EXT_ACK = 11
NETLINK_GET_STRICT_CHK = 12
NLMSG_ERROR = 2
NLMSG_DONE = 3
NLM_F_REQUEST = 0x001
NLM_F_ACK = 0x004
NLM_F_DUMP_INTR = 0x010
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_DUMP = 0x300
NLM_F_ACK_TLVS = 0x200
NLMSGERR_ATTR_MSG = 1
NLA_TYPE_MASK = 0x3FFF
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
IFA_ADDRESS, IFA_LOCAL = 1, 2
IFLA_ADDRESS, IFLA_IFNAME, IFLA_EXT_MASK = 1, 3, 29
RTEXT_FILTER_SKIP_STATS = 8  # a link's counters are nine tenths of its message

HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port id
ATTRIBUTE = struct.Struct("=HH")  # length, type
ADDRESS_HEADER = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, device index
LINK_HEADER = struct.Struct("=BxHiII")  # family, hardware type, device index, flags, change mask

ANSWER_BYTES_MAX = 65_536  # the kernel fills at most 32 KiB of a dump's datagram
DUMP_TRIES_MAX = 4  # a dump that a change interrupted is asked for again, so often


class KernelRefused(Exception):  # noqa: N818 (the project's word for it)
    """The kernel said no. `operation` completes "cannot ...", `remedy` says what to do; `errno` is the kernel's."""

    def __init__(self, operation: str, number: int, remedy: str) -> None:
        super().__init__(operation, number, remedy)
        self.operation = operation
        self.errno = number
        self.remedy = remedy

    def __str__(self) -> str:
        return f"cannot {self.operation}: {os.strerror(self.errno).lower()}; {self.remedy}"


class Answer(NamedTuple):
    """The kernel's answer to a request: 0 or an errno, and the words that it may add to it."""

    errno: int
    said: str


class Message(NamedTuple):
    """One netlink message; `body` is what follows the netlink header."""

    kind: int
    flags: int
    sequence: int
    body: memoryview


class RouteSocket:
    """A NETLINK_ROUTE socket for requests. Every method is synchronous and returns within microseconds.

    Raises:
        KernelRefused: the socket cannot be opened.
    """

    def __init__(self) -> None:
        self._socket = open_route_socket(groups=0)
        self._sequence = 0

    def close(self) -> None:
        """Close the socket; a second call does nothing."""
        self._socket.close()

    def request(self, message: bytearray) -> Answer:
        """Send one prebuilt request that asks for an acknowledgement, and return the kernel's answer."""
        sequence = self._send(message)
        while True:  # ends with the answer of this sequence number, or with an empty queue
            for part in split(self._receive()):
                if part.sequence == sequence and part.kind == NLMSG_ERROR:
                    return _answer(part)

    def ask(self, message: bytearray) -> Message:
        """Send one prebuilt request for one thing, without NLM_F_ACK, and return it.

        Raises:
            KernelRefused: the kernel answered with an error; its errno says which.
        """
        sequence = self._send(message)
        while True:  # ends with the answer of this sequence number, or with an empty queue
            for part in split(self._receive()):
                if part.sequence == sequence:
                    if part.kind == NLMSG_ERROR:
                        number, said = _answer(part)
                        raise KernelRefused("read the kernel's tables", number, said or "nothing was changed")
                    return part

    def dump(self, message: bytearray) -> list[Message]:
        """Send one prebuilt dump request and return every message of the answer.

        Raises:
            KernelRefused: the kernel answered with an error, or the tables would not stand still.
        """
        for _ in range(DUMP_TRIES_MAX):
            messages = self._dump_once(message)
            if messages is not None:
                return messages
        raise KernelRefused("read the kernel's tables", errno.EINTR, "they change without pause; try again")

    def _dump_once(self, message: bytearray) -> list[Message] | None:
        sequence = self._send(message)
        messages: list[Message] = []
        interrupted = False
        while True:  # ends with NLMSG_DONE, an error, or an empty queue
            for part in split(self._receive()):
                if part.sequence != sequence:
                    continue
                if part.kind == NLMSG_ERROR:
                    number, said = _answer(part)
                    raise KernelRefused("read the kernel's tables", number, said or "nothing was changed")
                if part.kind == NLMSG_DONE:
                    return None if interrupted else messages
                interrupted = interrupted or bool(part.flags & NLM_F_DUMP_INTR)
                messages.append(part)

    def _send(self, message: bytearray) -> int:
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        struct.pack_into("=I", message, 8, self._sequence)
        try:
            self._socket.send(message)
        except OSError as error:
            raise KernelRefused("ask the kernel by netlink", error.errno or 0, "nothing was changed") from error
        return self._sequence

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(ANSWER_BYTES_MAX)
        except OSError as error:
            raise KernelRefused("read the kernel's answer", error.errno or 0, "it is not known what it did") from error


def open_route_socket(groups: int) -> socket.socket:
    """Return a non-blocking NETLINK_ROUTE socket that is subscribed to `groups` (a mask of RTMGRP_*)."""
    try:
        opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
    except OSError as error:
        raise KernelRefused(
            "open a netlink socket", error.errno or 0, "is AF_NETLINK forbidden to this service?"
        ) from error
    try:
        for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK):
            try:
                opened.setsockopt(SOL_NETLINK, option, 1)
            except OSError as error:  # an older kernel: answers are longer and dumps are filtered here
                if error.errno != errno.ENOPROTOOPT:
                    raise
        opened.bind((0, groups))
    except OSError as error:
        opened.close()
        raise KernelRefused("bind a netlink socket", error.errno or 0, "no more is known") from error
    return opened


def split(data: bytes) -> Iterator[Message]:
    """Yield the messages of one datagram."""
    view = memoryview(data)
    offset = 0
    while offset + HEADER.size <= len(data):
        length, kind, flags, sequence, _ = HEADER.unpack_from(data, offset)
        if length < HEADER.size or offset + length > len(data):
            return
        yield Message(kind, flags, sequence, view[offset + HEADER.size : offset + length])
        offset += (length + 3) & ~3


def attributes(body: memoryview, start: int) -> Iterator[tuple[int, memoryview]]:
    """Yield `(type, value)` of each attribute of `body` from `start`; flags of the type are taken off."""
    while start + ATTRIBUTE.size <= len(body):
        length, kind = ATTRIBUTE.unpack_from(body, start)
        if length < ATTRIBUTE.size or start + length > len(body):
            return
        yield kind & NLA_TYPE_MASK, body[start + ATTRIBUTE.size : start + length]
        start += (length + 3) & ~3


def address_request(name: str, ip: str, prefix_length: int, index: int) -> bytearray:
    """Return the template `name` ("address-add" or "address-remove") for `ip` on the device with this index.

    Raises:
        TemplatesMissing: the first call of a process makes the templates, and could not.
    """
    packed = ipaddress.ip_address(ip).packed
    kind = "ipv4" if len(packed) == 4 else "ipv6"
    message = templates()[f"{name}-{kind}"].filled({kind: packed, "ipv6_tail": packed[-3:]})
    family, _, flags, scope, _ = ADDRESS_HEADER.unpack_from(message, HEADER.size)
    ADDRESS_HEADER.pack_into(message, HEADER.size, family, prefix_length, flags, scope, index)
    return message


def put_back_request(message: Message) -> bytearray:
    """Return the request that adds an address again as a dump has shown it; one that is there stays as it is."""
    header = HEADER.pack(HEADER.size + len(message.body), RTM_NEWADDR, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE, 0, 0)
    return bytearray(header + message.body)


def without_answer(request: bytearray) -> bytes:
    """Return a copy of `request` that the kernel carries out in silence."""
    length, kind, flags, sequence, port = HEADER.unpack_from(request)
    return HEADER.pack(length, kind, flags & ~NLM_F_ACK, sequence, port) + bytes(request[HEADER.size :])


def address_dump_request(family: int = 0, index: int = 0) -> bytearray:
    """Return the request for all addresses, perhaps of one family or one device."""
    return _dump_request(RTM_GETADDR, ADDRESS_HEADER.pack(family, 0, 0, 0, index))


def link_dump_request() -> bytearray:
    """Return the request for all links, without their counters."""
    skip = ATTRIBUTE.pack(ATTRIBUTE.size + 4, IFLA_EXT_MASK) + struct.pack("=I", RTEXT_FILTER_SKIP_STATS)
    return _dump_request(RTM_GETLINK, LINK_HEADER.pack(0, 0, 0, 0, 0) + skip)


def device_index(device: str) -> int:
    """Return the index of `device`.

    Raises:
        KernelRefused: this host has no such device; the message lists those that it has.
    """
    try:
        return socket.if_nametoindex(device)
    except OSError as error:
        names = ", ".join(sorted(name for _, name in socket.if_nameindex()))
        remedy = f"write one of this host's devices after `dev`: {names}"
        raise KernelRefused(f"use the device {device!r}", errno.ENODEV, remedy) from error


def _dump_request(kind: int, body: bytes) -> bytearray:
    return bytearray(HEADER.pack(HEADER.size + len(body), kind, NLM_F_REQUEST | NLM_F_DUMP, 0, 0) + body)


def _answer(part: Message) -> Answer:
    """Read struct nlmsgerr: an int, the header of the request, then (with NETLINK_EXT_ACK) attributes."""
    (code,) = struct.unpack_from("=i", part.body)
    said = ""
    if part.flags & NLM_F_ACK_TLVS:
        for kind, value in attributes(part.body, 4 + HEADER.size):
            if kind == NLMSGERR_ATTR_MSG:
                said = bytes(value).rstrip(b"\0").decode("ascii", "replace")
    return Answer(-code, said)
