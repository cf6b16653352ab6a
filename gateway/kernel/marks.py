"""Marks: which bits of the kernel's marks are ours, and what we write there. Nothing else may define a mark.

Rule: the other bits are left as they are, in the marks of packets as in those of flows.

The bits are 16 to 27. Those that other programs are known to use are below (Kubernetes 0x4000 and 0x8000, policy
routing a few of the lowest) or above. A program that restores or sets whole marks without a mask breaks ours.
"""

from typing import Final

MARK_MASK: Final = 0x0FFF_0000
MARK_SHIFT: Final = 16

SERVICES_MAX: Final = 256  # 0x004 to 0x803: flows that `gateway.kernel.nat` has translated
RETURN_FIRST: Final = 0xE00 << MARK_SHIFT  # 0xE00 to 0xEFF: flows that came through a gateway, to go back through it
GATEWAYS_MAX: Final = 256
LOCAL_MARK: Final = 0xFF0 << MARK_SHIFT  # packets for transparent sockets of this host


def return_mark(number: int) -> int:
    """Return the mark for the gateway with this number, from 0."""
    return RETURN_FIRST + (number << MARK_SHIFT)
