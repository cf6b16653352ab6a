"""Raw Ethernet: AF_PACKET sockets on one device, and the few ARP fields that are read here. Builds no frame.

A socket is non-blocking and hears nothing until it is bound to a protocol; a filter is attached before that, so
that nothing unwanted is ever queued.
"""

import _thread
import ctypes
import errno
import socket
import struct
from collections.abc import Sequence
from typing import NamedTuple

from gateway.kernel import netlink
from gateway.kernel.netlink import KernelRefused

ETH_P_ARP = 0x0806
ETH_P_IPV6 = 0x86DD
FRAME_BYTES_MAX = 2_048  # an ARP frame has 42 to 64 bytes, neighbour discovery some hundred
_ARPHRD_ETHER = 1
_ARPHRD_LOOPBACK = 772
_SO_ATTACH_FILTER = 26
# RFC 826 for Ethernet and IPv4: hardware type 1, protocol 0x0800, lengths 6 and 4; opcode and addresses follow.
_ARP_FIXED = bytes.fromhex("000108000604")
_ARP_BYTES = 42


class ArpPacket(NamedTuple):
    """What an ARP frame says: `opcode` 1 asks, 2 answers; MACs as text, addresses packed."""

    opcode: int
    sender_mac: str
    sender_ip: bytes
    target_ip: bytes


class Instruction(NamedTuple):
    """One instruction of a classic BPF program (linux/filter.h, struct sock_filter)."""

    code: int
    jump_true: int
    jump_false: int
    k: int


def open_packet_socket(device: str, protocol: int = 0, program: Sequence[Instruction] = ()) -> socket.socket:
    """Return a non-blocking AF_PACKET socket on `device`; protocol 0 only sends.

    Raises:
        KernelRefused: no permission, no such device, or not an Ethernet device.
    """
    netlink.device_index(device)
    try:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    except OSError as error:
        remedy = "run as root or give the service CAP_NET_RAW"
        raise KernelRefused(f"open a raw socket on {device!r}", error.errno or 0, remedy) from error
    try:
        if program:
            _attach(opened, program)
        opened.bind((device, protocol))
        hardware_type, mac = opened.getsockname()[3:5]
        if hardware_type not in (_ARPHRD_ETHER, _ARPHRD_LOOPBACK) or len(mac) != 6:
            remedy = "it is not an Ethernet device; a virtual address needs ARP"
            raise KernelRefused(f"announce an address on {device!r}", errno.EPROTONOSUPPORT, remedy)
    except OSError as error:
        opened.close()
        raise KernelRefused(f"bind a raw socket to {device!r}", error.errno or 0, "no more is known") from error
    except KernelRefused:
        opened.close()
        raise
    return opened


def mac_of(opened: socket.socket) -> str:
    """Return the MAC address of the device that an AF_PACKET socket is bound to, as `02:00:00:00:00:01`."""
    mac: bytes = opened.getsockname()[4]
    return mac_text(mac)


def mac_text(mac: bytes) -> str:
    """Return a MAC address as text: `02:00:00:00:00:01`."""
    return mac.hex(":")


def local_macs() -> frozenset[str]:
    """Return the MAC addresses of all devices of this host: it may answer ARP on any of them.

    Raises:
        KernelRefused: the kernel cannot be asked.
    """
    return frozenset(device_macs().values())


def device_macs() -> dict[str, str]:
    """Return the MAC address of each device of this host that has one, by the device's name.

    Raises:
        KernelRefused: the kernel cannot be asked.
    """
    opened = netlink.RouteSocket()
    try:
        messages = opened.dump(netlink.link_dump_request())
    finally:
        opened.close()
    found = {}
    for message in messages:
        fields = dict(netlink.attributes(message.body, netlink.LINK_HEADER.size))
        mac, name = fields.get(netlink.IFLA_ADDRESS, b""), bytes(fields.get(netlink.IFLA_IFNAME, b""))
        if len(mac) == 6:
            found[name.rstrip(b"\0").decode("utf-8", "replace")] = mac_text(bytes(mac))
    return found


def parse_arp_untrusted(frame: bytes) -> ArpPacket | None:
    """Return what an ARP frame says; None for any other bytes. Never raises."""
    if len(frame) < _ARP_BYTES or frame[14:20] != _ARP_FIXED:
        return None
    if int.from_bytes(frame[12:14], "big") != ETH_P_ARP:
        return None
    opcode = int.from_bytes(frame[20:22], "big")
    return ArpPacket(opcode, mac_text(frame[22:28]), frame[28:32], frame[38:42])


def _attach(opened: socket.socket, program: Sequence[Instruction]) -> None:
    packed = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(packed)
    # struct sock_fprog is copied by the kernel during the call; `buffer` need not live longer.
    opened.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", len(program), ctypes.addressof(buffer)))


def close_soon(opened: socket.socket) -> None:
    """Close a packet socket in a thread of its own, without waiting for it: the kernel takes 7 to 40 ms."""
    try:
        # Not `threading`: its start waits until the thread runs, and threads don't run in real time as we do.
        _thread.start_new_thread(opened.close, ())
    except RuntimeError:  # no more threads: late is better than leaked
        opened.close()
