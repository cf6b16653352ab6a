"""The orders on stable storage: one small JSON file, replaced as a whole, that an administrator can read.

Rule: a file that can't be read is no reason not to start: it is set aside, the operator is told, and the peers know the
orders anyway and tell them again.
"""

import contextlib
import os
from pathlib import Path
from typing import Final

import msgspec

from gateway.core.orders import NO_ORDERS
from gateway.wire.heartbeat import orders_fault
from gateway.wire.messages import Drain, Orders, Pause

FORMAT: Final = 1
FILE_BYTES_MAX: Final = 16_384  # nine drained nodes and a reason of 200 characters take some 2 KB


class _Paused(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    reason: str
    by: str
    at_s: int


class _Drained(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    node: str
    by: str
    at_s: int


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    version: int
    origin: str
    at_s: int
    paused: _Paused | None
    drained: tuple[_Drained, ...]


class OrdersFile:
    """The file `orders.json` in a node's own folder.

    Args:
        directory: the folder; need not be there yet.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / "orders.json"

    def read(self) -> tuple[Orders, str]:
        """Return what the file holds, and a sentence for the operator where it could not be read ("": it could)."""
        try:
            with open(self.path, "rb") as opened:
                data = opened.read(FILE_BYTES_MAX + 1)
            return _decoded(data), ""
        except FileNotFoundError:
            return NO_ORDERS, ""
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            aside = self.path.with_suffix(".json.broken")
            with contextlib.suppress(OSError):
                os.replace(self.path, aside)
            return NO_ORDERS, (
                f"'{self.path}' can't be read ({reason}) and was set aside as '{aside.name}': this node has forgotten "
                "whether the cluster is paused and which nodes are drained, until a peer tells it"
            )

    def write(self, orders: Orders) -> None:
        """Put orders on stable storage. Blocks for as long as the disk takes: call it in a thread.

        Raises:
            OSError: the disk is full, gone or broken; the file is the old one or, after a crash, the new one.
        """
        fresh = self.path.with_suffix(".json.new")
        opened = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            data = memoryview(_encoded(orders))
            while data:  # ends: each turn writes some of it
                data = data[os.write(opened, data) :]
            os.fsync(opened)
        finally:
            os.close(opened)
        os.rename(fresh, self.path)
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)  # the new name itself must survive a crash
        finally:
            os.close(folder)


def _encoded(orders: Orders) -> bytes:
    pause = orders.pause
    file = _File(
        format=FORMAT,
        version=orders.version,
        origin=orders.origin,
        at_s=orders.at_s,
        paused=None if pause is None else _Paused(pause.reason, pause.by, pause.at_s),
        drained=tuple(_Drained(drain.node, drain.by, drain.at_s) for drain in orders.drains),
    )
    return msgspec.json.format(msgspec.json.encode(file)) + b"\n"


def _decoded(data: bytes) -> Orders:
    """Return the orders in a file. Raises ValueError."""
    if len(data) > FILE_BYTES_MAX:
        raise ValueError(f"more than {FILE_BYTES_MAX} bytes")
    file = msgspec.json.decode(data, type=_File)
    if file.format != FORMAT:
        raise ValueError(f"format {file.format}, and this program knows {FORMAT}")
    pause = None if file.paused is None else Pause(file.paused.reason, file.paused.by, file.paused.at_s)
    drains = tuple(Drain(one.node, one.by, one.at_s) for one in file.drained)
    orders = Orders(file.version, file.origin, pause, drains, file.at_s)
    if fault := orders_fault(orders):
        raise ValueError(fault)
    return orders
