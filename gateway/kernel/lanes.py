"""Lanes: two sockets on one UDP port. The kernel puts what may wait into the second, so that it wakes nobody up.

Rule: the first byte of a datagram decides, by a classic BPF program on the port's group of sockets (socket(7),
SO_ATTACH_REUSEPORT_CBPF, Linux 4.5). A kernel that can't do it gives one lane, and nothing is lost but CPU time.
"""

import contextlib
import ctypes
import socket
import struct

_SO_ATTACH_REUSEPORT_CBPF = 51  # asm-generic/socket.h
_INSTRUCTION = struct.Struct("HBBI")  # struct sock_filter: code, jump if true, jump if false, operand
_LOAD_BYTE, _JUMP_IF_SET, _RETURN = 0x30, 0x45, 0x06  # linux/bpf_common.h: LD|B|ABS, JMP|JSET|K, RET|K


def open_second_lane(first: socket.socket, mark: int) -> socket.socket | None:
    """Return a second socket on the port of `first`, which gets the datagrams with a bit of `mark` in the first byte.

    `first` is bound, and gets all others. None: this kernel has no lanes.
    """
    second = socket.socket(first.family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        # Set after `first` was bound: it got the port alone. Whoever wants it without this option, as another node's
        # process does, is still told that it is in use.
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        second.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        second.bind(first.getsockname())
        _attach(first, mark)
    except OSError:
        second.close()
        with contextlib.suppress(OSError):
            first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
        return None
    second.setblocking(False)
    return second


def _attach(member: socket.socket, mark: int) -> None:
    program = b"".join(
        _INSTRUCTION.pack(*instruction)
        for instruction in (
            (_LOAD_BYTE, 0, 0, 0),
            (_JUMP_IF_SET, 0, 1, mark),
            (_RETURN, 0, 0, 1),  # the second in the order of binding
            (_RETURN, 0, 0, 0),
        )
    )
    held = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("HL", len(program) // _INSTRUCTION.size, ctypes.addressof(held))  # struct sock_fprog
    member.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, described)
