"""A client, a gateway with a virtual address and two servers, for tests of what the kernel forwards.

Every server answers a line or datagram with its name, the client's address as it sees it, and what was said, so that a
test can tell who served whom. The gateway's own listener, which the relay is in the product, is called "relay".
"""

import contextlib
import errno
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from gateway.config.settings import Endpoint
from gateway.kernel.nat import Nat, forwarding_sysctls
from gateway.kernel.nat_rules import Listener, Service
from tests.support.netns import DEVICE, Child, Host, Segment

PORT, SERVER_PORT = 9618, 9700


class Net(NamedTuple):
    """A client, a gateway with the virtual address, and two servers."""

    client: Host
    gateway: Host
    servers: list[Host]
    ip: str  # the virtual address
    endpoints: list[Endpoint]

    def of_client(self) -> str:
        return "fd77::5" if ":" in self.ip else "10.77.0.5"

    def of_gateway(self) -> str:
        return "fd77::91" if ":" in self.ip else "10.77.0.91"


def service(ip: str, *, name: str = "pool", port: int = PORT, transparent: bool = False) -> Service:
    return Service(name, (Listener(ip, "tcp", port), Listener(ip, "udp", port)), transparent)


def build(segment: Segment, version: int) -> Net:
    net, length, own = ("10.77.0.", 24, 32) if version == 4 else ("fd77::", 64, 128)
    ip = f"{net}100"
    gateway = segment.host("gw1", f"{net}91/{length}")
    gateway.ip("address", "add", f"{ip}/{own}", "dev", DEVICE, *([] if version == 4 else ["preferred_lft", "0"]))
    forwarded = gateway.call(forwarding_sysctls, [DEVICE], version_4=version == 4, version_6=version == 6)
    gateway.run("sysctl", "-qw", *(f"{name}={value}" for name, value in forwarded.items()))
    servers = [segment.host(f"s{number}", f"{net}{20 + number}/{length}") for number in (1, 2)]
    for number, server in enumerate(servers, 1):
        listening(server, f"s{number}", f"{net}{20 + number}", SERVER_PORT)
    listening(gateway, "relay", ip, PORT)
    client = segment.host("client", f"{net}5/{length}")
    return Net(client, gateway, servers, ip, [Endpoint(f"{net}{20 + n}", SERVER_PORT) for n in (1, 2)])


def listening(host: Host, name: str, ip: str, port: int) -> Child:
    """Start a server that answers every line and datagram with its name, the client's address, and what was said."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    ready_there = host.start(serve, name, ip, port, family)
    until = time.monotonic() + 10
    while f":{port} " not in host.run("ss", "-Hltn").stdout:
        assert time.monotonic() < until
        time.sleep(0.02)
    return ready_there


def serve(name: str, ip: str, port: int, family: int) -> None:
    datagrams = socket.socket(family, socket.SOCK_DGRAM)
    datagrams.bind((ip, port))
    streams = socket.create_server((ip, port), family=family, backlog=1_024)
    threading.Thread(target=answer_datagrams, args=(name, datagrams), daemon=True).start()
    while True:  # until killed
        stream, peer = streams.accept()
        threading.Thread(target=answer_lines, args=(name, stream, peer[0]), daemon=True).start()


def answer_datagrams(name: str, datagrams: socket.socket) -> None:
    while True:  # until killed
        data, peer = datagrams.recvfrom(65_536)
        with contextlib.suppress(PermissionError):  # conntrack, in the instant between rules that come or go
            datagrams.sendto(f"{name} {peer[0]} ".encode() + data, peer)


def answer_lines(name: str, stream: socket.socket, peer: str) -> None:
    with contextlib.suppress(OSError), stream:
        while data := stream.recv(65_536):
            stream.sendall(f"{name} {peer} ".encode() + data)


def ask(ip: str, protocol: str = "tcp", said: bytes = b"?", port: int = PORT, source: str | None = None) -> list[str]:
    """Ask who is there: the words of the answer."""
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, kind) as asking:
        asking.settimeout(3)
        if source is not None:
            asking.bind((source, 0))
        asking.connect((ip, port))
        return conversation(asking, said)


def conversation(asking: socket.socket, said: bytes = b"?") -> list[str]:
    asking.sendall(said)
    answer = asking.recv(65_536)
    while len(answer) <= len(said):
        answer += asking.recv(65_536)
    return answer.decode().split(" ")


def burst(ip: str, count: int, wait_s: float = 0.5) -> tuple[int, int]:
    """Open so many connections at once: how many stand after a while, and when SYNs have been sent again (3 s)."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    opening = [socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) for _ in range(count)]
    for one in opening:
        one.connect_ex((ip, PORT))
    counts = []
    for seconds in (wait_s, 3.0):
        time.sleep(seconds)
        counts.append(sum(is_connected(one) for one in opening))
    for one in opening:
        one.close()
    return counts[0], counts[1]


def is_connected(opening: socket.socket) -> bool:
    try:
        opening.getpeername()
    except OSError:
        return False
    return True


def with_nat(act: Callable[[Nat], Any], *services: Service, keep: bool = True) -> Any:
    """Do something with the translation as a process that comes and goes."""
    nat = Nat("pool", services)
    nat.install(keep=keep)
    try:
        return act(nat)
    finally:
        nat.close()


def follow(net: Net, server: int | None, **options: Any) -> None:
    """Let the service go to a server from now on, and drop what is left of the last one's flows."""

    def act(nat: Nat) -> None:
        if nat.switch(None if server is None else net.endpoints[server]):
            nat.expel()

    net.gateway.call(with_nat, act, service(net.ip, **options))


@contextlib.contextmanager
def in_client(net: Net, function: Callable[..., Any], *arguments: Any) -> Iterator[Child]:
    child = net.client.start(function, *arguments)
    yield child
    child.kill()


def exchange(ip: str, wait_s: float, silent: bool) -> list[str | float]:
    """Talk over one connection, then again after a while (or only listen), and say how it ended and when."""
    with socket.create_connection((ip, PORT), 3) as stream:
        heard: list[str | float] = list(conversation(stream))
        stream.settimeout(wait_s)
        try:
            if silent:
                heard.append(stream.recv(10).decode())
            else:
                until = time.monotonic() + wait_s
                while time.monotonic() < until:
                    time.sleep(0.01)
                    heard += conversation(stream)[:1]
        except OSError as error:
            heard.append(errno.errorcode.get(error.errno or 0, "timeout"))
        return [*heard, time.time()]


def datagrams(ip: str, count: int, every_s: float, size: int) -> list[str]:
    """Send datagrams from one port and return the names of those who answered, in order; "lost" for no answer."""
    with socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(1)
        asking.connect((ip, PORT))
        names = []
        for _ in range(count):
            asking.send(b"x" * size)
            try:
                name, _, said = asking.recv(65_536).split(b" ")
                names.append(name.decode() if said == b"x" * size else "mangled")
            except TimeoutError:
                names.append("lost")
            time.sleep(every_s)
        return names


def later(after_s: float, function: Callable[..., Any], *arguments: Any) -> Any:
    time.sleep(after_s)
    return function(*arguments)
