"""Offloads: whether a device's driver merges what it receives so that it cannot be sent on. Asks, changes nothing."""

import ctypes
import errno
import fcntl
import socket
import struct

from gateway.kernel.netlink import KernelRefused

_SIOCETHTOOL = 0x8946
_ETHTOOL_GFLAGS = 0x25
_ETH_FLAG_LRO = 1 << 15


def merges_received(device: str) -> bool:
    """Return whether large receive offload is on, which (unlike GRO) loses what forwarding needs. Microseconds.

    Raises:
        KernelRefused: no such device.
    """
    asked = ctypes.create_string_buffer(struct.pack("=II", _ETHTOOL_GFLAGS, 0))  # struct ethtool_value
    request = struct.pack("16sP16x", device.encode()[:15], ctypes.addressof(asked))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        try:
            fcntl.ioctl(opened, _SIOCETHTOOL, request)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                return False
            raise KernelRefused(f"ask for the offloads of {device!r}", error.errno or 0, "no more is known") from error
    (flags,) = struct.unpack_from("=I", asked.raw, 4)
    return bool(flags & _ETH_FLAG_LRO)
