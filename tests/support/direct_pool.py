"""A pool for the tests of `forward direct`: a client, two gateways and two managers on one switch.

The managers answer at the virtual address with their name and the client's address; the relay of a gateway, where it
is started, says "relay". What is done on a gateway is done in a process that ends: the rules outlive it.
"""

import contextlib
import select
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gateway.kernel.address import VirtualAddress
from gateway.kernel.announce import Announcer
from gateway.kernel.direct import Direct
from gateway.kernel.fence import Fence
from gateway.kernel.loopback import LoopbackAddress
from gateway.kernel.nft_expressions import Rate
from gateway.kernel.sysctl import Sysctls
from tests.support.netns import DEVICE, Host, Segment

PORT = 9618
NAME = "pool-vip"
TABLE = f"condor-gateway-{NAME}-direct"
_FREEBIND = 15


class Pool:
    """The five hosts. `here` is the gateway that holds the address."""

    def __init__(self, segment: Segment, folder: Path, version: int = 4) -> None:
        network, length = ("10.77.0.", "/24") if version == 4 else ("fd77::", "/64")
        self.ip = f"{network}100"
        self.bits = 32 if version == 4 else 128
        self.folder = folder
        self.client_ip = f"{network}5"
        self.client = segment.host("client", f"{network}5{length}")
        self.gw1 = segment.host("gw1", f"{network}91{length}", mac="02:00:00:00:00:91")
        self.gw2 = segment.host("gw2", f"{network}92{length}", mac="02:00:00:00:00:92")
        self.m1 = segment.host("m1", f"{network}11{length}", mac="02:00:00:00:00:11")
        self.m2 = segment.host("m2", f"{network}12{length}", mac="02:00:00:00:00:12")
        for name, host in (("m1", self.m1), ("m2", self.m2)):
            host.call(hold_on_loopback, self.ip, folder / name)
            host.start(serve, name, self.ip)
        for gateway in (self.gw1, self.gw2):
            gateway.call(on_direct, self.ip, lambda direct: None, keep=False)

    def direct(self, gateway: Host, act: Callable[[Direct], Any]) -> Any:
        """Do something with the rules of a gateway."""
        return gateway.call(on_direct, self.ip, act)

    def hold(self, gateway: Host, server: Host | None, lease_ms: int = 60_000) -> None:
        """Let a gateway hold the address and forward to `server`."""

        def act(direct: Direct) -> None:
            direct.switch(server.mac if server else None)
            direct.grant(lease_ms)
            address = VirtualAddress(self.ip, self.bits, DEVICE)
            address.add()
            Announcer(self.ip, DEVICE).burst(1)

        self.direct(gateway, act)
        self.wait_until_served()

    def switch(self, gateway: Host, server: Host | None) -> None:
        mac = server.mac if server else None
        self.direct(gateway, lambda direct: direct.switch(mac))

    def counters(self, gateway: Host) -> dict[str, int]:
        counted: dict[str, int] = self.direct(gateway, lambda direct: direct.counters())
        return counted

    def ask(self, kind: socket.SocketKind = socket.SOCK_STREAM, size: int = 10) -> str:
        """Return who answers a client, and whom it sees; "" where nobody does within a second."""
        answer: str = self.client.call(ask, self.ip, kind, size)
        return answer

    def wait_until_served(self) -> None:
        until = time.monotonic() + 10
        while not self.ask():
            assert time.monotonic() < until, "the address never answered"


def on_direct(ip: str, act: Callable[[Direct], Any], *, keep: bool = True, rate: Rate | None = None) -> Any:
    direct = Direct(ip, DEVICE, NAME, rate=rate)
    direct.install(keep=keep)
    try:
        return act(direct)
    finally:
        direct.close()


def hold_on_loopback(ip: str, folder: Path) -> list[str]:
    folder.mkdir(exist_ok=True)
    address = LoopbackAddress(ip, DEVICE, Sysctls(folder / "sysctls"), folder / "loopback")
    warnings = address.prepare()
    address.add()
    return warnings


def family_of(ip: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in ip else socket.AF_INET


def serve(name: str, ip: str) -> None:
    """Answer every message at `ip`: this host's name, the asker's address, how much it sent. Until killed."""
    family = family_of(ip)
    datagrams = socket.socket(family, socket.SOCK_DGRAM)
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for one in (datagrams, listening):
        one.setsockopt(socket.SOL_IP, _FREEBIND, 1)
        one.bind((ip, PORT))
    listening.listen(200)
    streams: dict[socket.socket, str] = {}
    while True:  # until killed
        for ready in select.select([datagrams, listening, *streams], [], [])[0]:
            with contextlib.suppress(OSError):  # reset, or no way back
                if ready is datagrams:
                    data, source = datagrams.recvfrom(65_536)
                    datagrams.sendto(f"{name} {source[0]} {len(data)}".encode(), source)
                elif ready is listening:
                    stream, source = listening.accept()
                    streams[stream] = source[0]
                elif not answered(name, ready, streams[ready]):
                    del streams[ready]
                    ready.close()


def answered(name: str, stream: socket.socket, peer: str) -> bool:
    try:
        data = stream.recv(65_536)
        stream.sendall(f"{name} {peer} {len(data)}".encode())
    except OSError:
        return False
    return bool(data)


def ask(ip: str, kind: socket.SocketKind, size: int, within_s: float = 1.0) -> str:
    with socket.socket(family_of(ip), kind) as asking:
        asking.settimeout(within_s)
        try:
            asking.connect((ip, PORT))
            asking.send(bytes(size))
            return asking.recv(100).decode()
        except OSError:
            return ""


def fence(ip: str, lease_ms: int = 60_000) -> None:
    """Build the fence beside the rules, open for `lease_ms`."""
    made = Fence(ip, DEVICE, NAME)
    made.install()
    if lease_ms:
        made.grant(lease_ms)
    made.close()


@contextlib.contextmanager
def stream_to(ip: str, within_s: float = 3.0) -> Iterator[socket.socket]:
    """A connection that stays; call it in the client's process."""
    with socket.create_connection((ip, PORT), within_s) as stream:
        stream.settimeout(within_s)
        yield stream


def say(stream: socket.socket, data: bytes = b"?") -> str:
    stream.sendall(data)
    return stream.recv(100).decode()


def channel() -> tuple[socket.socket, socket.socket]:
    """Return a socket pair between a test and its processes; whoever waits in vain is told."""
    pair = socket.socketpair()
    for end in pair:
        end.settimeout(30)
    return pair
