"""Hosts on a switch, made of network namespaces. What a test runs on a host runs in a process of its own.

    with Segment() as segment:
        left = segment.host("left", "10.9.0.1/24")
        assert left.call(address.local_addresses) == {...}

Names are `<prefix>-<pid>-<number>`; whatever a crashed run left behind is removed at the next start. Nothing outside
of these namespaces is touched: even the switch is a bridge inside one. Every host's device is called `lan0`, which no
real host has, so that a mistake finds no device.
"""

import contextlib
import ctypes
import itertools
import os
import pickle
import re
import select
import signal
import socket
import struct
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Self

DEVICE = "lan0"
_CLONE_NEWNET = 0x40000000
_ETH_P_ALL = 0x0003
_SO_TIMESTAMPNS = 35
_SWITCH = "br0"
_numbers = itertools.count(1)


def usable() -> str | None:
    """Return why network namespaces cannot be made here; None where they can."""
    if os.geteuid() != 0:
        return "needs root"
    try:
        subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, timeout=10)
    except (OSError, subprocess.SubprocessError) as error:
        return f"`ip netns` does not work: {error}"
    return None


def ip(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the `ip` command. Raises `RuntimeError` with its words."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=20)
    if check and done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done


class Frame(NamedTuple):
    """A frame that a capture saw: when (CLOCK_REALTIME), its bytes, whether the host itself sent it."""

    at_s: float
    data: bytes
    outgoing: bool


class Capture:
    """Everything that passes a host's device from now on; the kernel queues it until it is asked for."""

    def __init__(self, opened: socket.socket) -> None:
        self._socket = opened
        self._frames: list[Frame] = []

    def frames(self, *, protocol: int | None = None, outgoing: bool | None = None) -> list[Frame]:
        """Return all frames so far, perhaps only those of one EtherType or one direction."""
        while True:  # until the queue is empty
            try:
                data, ancillary, _, source = self._socket.recvmsg(2_048, 64, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            seconds, nanoseconds = struct.unpack("qq", ancillary[0][2][:16])
            at_s = seconds + nanoseconds / 1e9
            self._frames.append(Frame(at_s, data, source[2] == socket.PACKET_OUTGOING))
        return [
            frame
            for frame in self._frames
            if (protocol is None or frame.data[12:14] == protocol.to_bytes(2, "big"))
            and (outgoing is None or frame.outgoing == outgoing)
        ]

    def wait(self, count: int, within_s: float = 10, **wanted: Any) -> list[Frame]:
        """Return the frames as soon as `count` are there; fewer when the time is over."""
        until = time.monotonic() + within_s
        while len(found := self.frames(**wanted)) < count and time.monotonic() < until:
            select.select([self._socket], [], [], 0.05)
        return found

    def close(self) -> None:
        self._socket.close()


class Child:
    """A function that runs on a host, in a process of its own."""

    def __init__(self, pid: int, reading: int) -> None:
        self.pid = pid
        self._reading = reading
        self._ended = False

    def result(self, within_s: float = 60) -> Any:
        """Return what the function returned, or raise what it raised."""
        until = time.monotonic() + within_s
        data = b""
        try:
            while True:  # until the pipe's other end is closed, by `_exit` at the latest
                ready = select.select([self._reading], [], [], max(0.0, until - time.monotonic()))[0]
                if not ready:
                    raise TimeoutError(f"process {self.pid} took longer than {within_s} s")
                chunk = os.read(self._reading, 65_536)
                if not chunk:
                    break
                data += chunk
        finally:
            self.kill()
        if not data:
            raise RuntimeError(f"process {self.pid} died without a result")
        succeeded, value, where = pickle.loads(data)
        if not succeeded:
            value.add_note(where)
            raise value
        return value

    def signal(self, number: int) -> None:
        """Send a signal, unless the process was waited for already."""
        if not self._ended:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End the process and wait for it; a second call does nothing."""
        if not self._ended:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self._ended = True
            os.close(self._reading)


class Host:
    """One namespace with one device, `lan0`, on the segment's switch."""

    def __init__(self, namespace: str, port: str, switch: str) -> None:
        self.namespace = namespace
        self.device = DEVICE
        self.port = port
        self._switch = switch
        self._children: list[Child] = []
        self._captures: list[Capture] = []

    @property
    def mac(self) -> str:
        """The MAC address of the device."""
        shown = self.ip("-o", "link", "show", "dev", DEVICE).stdout
        return shown.split("link/ether ")[1].split()[0]

    def ip(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `ip` in the namespace."""
        return ip("-n", self.namespace, *arguments, check=check)

    def run(self, *argv: str, check: bool = True, within_s: float = 30) -> subprocess.CompletedProcess[str]:
        """Run a program in the namespace."""
        done = subprocess.run(
            ["ip", "netns", "exec", self.namespace, *argv], capture_output=True, text=True, timeout=within_s
        )
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(argv)}: {done.stdout}{done.stderr}")
        return done

    def call(self, function: Callable[..., Any], *arguments: Any, within_s: float = 60, **named: Any) -> Any:
        """Run `function` on this host in a forked process and return its (picklable) result, or raise its error."""
        return self.start(function, *arguments, **named).result(within_s)

    def start(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Child:
        """Start `function` on this host in a forked process. From a synchronous test only: trio does not fork."""
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            _run_in(self.namespace, writing, lambda: function(*arguments, **named))
        os.close(writing)
        child = Child(pid, reading)
        self._children.append(child)
        return child

    def capture(self) -> Capture:
        """Start to capture every frame of the device: incoming ones before any rule, outgoing ones after all rules."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            child = self.start(_send_packet_socket, theirs)
            _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
            child.result()
        capture = Capture(socket.socket(fileno=descriptors[0]))
        self._captures.append(capture)
        return capture

    def cut(self) -> None:
        """Take the carrier away: pull the cable out of the switch."""
        ip("-n", self._switch, "link", "set", self.port, "down")

    def heal(self) -> None:
        """Put the cable back."""
        ip("-n", self._switch, "link", "set", self.port, "up")

    def neighbour(self, address: str) -> str | None:
        """Return the MAC that this host's kernel has for `address`, None where it has none."""
        shown = self.ip("neigh", "show", address, "dev", DEVICE).stdout
        found = re.search(r"lladdr (\S+)", shown)
        return found.group(1) if found else None

    def ping(self, address: str, within_s: float = 1.0) -> bool:
        """Return whether a host answers an ICMP echo request from here; needs no `ping` program."""
        answered: bool = self.call(_ping, address, within_s)
        return answered

    def close(self) -> None:
        """End the processes that were started here, then remove the namespace."""
        for capture in self._captures:
            capture.close()
        for child in self._children:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
        ip("netns", "delete", self.namespace, check=False)


class Segment:
    """A switch and the hosts on it. A context manager: leaving it removes everything."""

    def __init__(self, prefix: str = "cgk") -> None:
        self.prefix = prefix
        self.hosts: dict[str, Host] = {}
        self._ports = itertools.count()
        remove_leftovers(prefix)
        self._switch = self._add_namespace()
        try:
            ip("-n", self._switch, "link", "add", _SWITCH, "type", "bridge", "forward_delay", "0", "stp_state", "0")
            ip("-n", self._switch, "link", "set", _SWITCH, "up")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def host(self, name: str, *addresses: str, mac: str | None = None) -> Host:
        """Add a host with `addresses` (each with its prefix length) to the segment."""
        host = Host(self._add_namespace(), f"p{next(self._ports)}", self._switch)
        self.hosts[name] = host
        host.ip("link", "set", "lo", "up")
        self._plug(host, DEVICE, host.port, mac)
        for address in addresses:
            host.ip("address", "add", address, "dev", DEVICE)
        return host

    def plug(self, host: Host, device: str) -> None:
        """Give a host one more device on the segment."""
        self._plug(host, device, f"p{next(self._ports)}", None)

    def _plug(self, host: Host, device: str, port: str, mac: str | None) -> None:
        with_mac = ["address", mac] if mac else []
        peer = ["type", "veth", "peer", "name", port, "netns", self._switch]
        ip("-n", host.namespace, "link", "add", device, *with_mac, *peer)
        ip("-n", self._switch, "link", "set", port, "master", _SWITCH, "up")
        # Duplicate address detection would keep IPv6 addresses silent for a second.
        host.run("sysctl", "-qw", "net.ipv6.conf.all.accept_dad=0", f"net.ipv6.conf.{device}.accept_dad=0", check=False)
        host.ip("link", "set", device, "up")

    def close(self) -> None:
        """Remove all hosts and the switch."""
        for host in self.hosts.values():
            host.close()
        self.hosts.clear()
        ip("netns", "delete", self._switch, check=False)

    def _add_namespace(self) -> str:
        name = f"{self.prefix}-{os.getpid()}-{next(_numbers)}"
        ip("netns", "add", name)
        return name


def remove_leftovers(prefix: str) -> None:
    """Remove the namespaces of this prefix whose process has ended."""
    for line in ip("netns", "list").stdout.splitlines():
        name = line.split()[0]
        found = re.fullmatch(rf"{re.escape(prefix)}-(\d+)-\d+", name)
        if found and not os.path.exists(f"/proc/{found.group(1)}"):
            ip("netns", "delete", name, check=False)


@contextlib.contextmanager
def _entered(namespace: str) -> Iterator[None]:
    libc = ctypes.CDLL(None, use_errno=True)
    opened = os.open(f"/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(opened, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns to {namespace}")
    finally:
        os.close(opened)
    yield


def _run_in(namespace: str, writing: int, function: Callable[[], Any]) -> None:
    """Run `function` in this forked process and leave it; never returns, so that no fixture is torn down twice."""
    try:
        try:
            with _entered(namespace):
                result: tuple[bool, Any, str] = (True, function(), "")
        except BaseException as error:  # noqa: BLE001 (it is raised again in the parent)
            result = (False, _picklable(error), traceback.format_exc())
        view = memoryview(pickle.dumps(result))
        while view:
            view = view[os.write(writing, view) :]
    finally:
        os._exit(0)


def _picklable(error: BaseException) -> BaseException:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 (whatever pickling makes of it)
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _ping(address: str, within_s: float) -> bool:
    mark = os.urandom(8)
    version_6 = ":" in address
    family, protocol = (socket.AF_INET6, socket.IPPROTO_ICMPV6) if version_6 else (socket.AF_INET, socket.IPPROTO_ICMP)
    asks, answers, skip = (128, 129, 0) if version_6 else (8, 0, 20)  # IPv4 hands its header out with the message
    unsummed = struct.pack("!BBHHH", asks, 0, 0, os.getpid() & 0xFFFF, 1) + mark
    total = sum(struct.unpack(f"!{len(unsummed) // 2}H", unsummed))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~(total + (total >> 16)) & 0xFFFF  # of ICMPv6 the kernel makes it
    request = unsummed[:2] + checksum.to_bytes(2, "big") + unsummed[4:]
    until = time.monotonic() + within_s
    with socket.socket(family, socket.SOCK_RAW, protocol) as opened:
        try:
            opened.sendto(request, (address, 0))
            while (left_s := until - time.monotonic()) > 0:
                opened.settimeout(left_s)
                packet, source = opened.recvfrom(2_048)
                if source[0] == address and packet[skip] == answers and packet[skip + 8 : skip + 16] == mark:
                    return True
        except OSError:  # no route, host unreachable, or the time is over
            return False
    return False


def _send_packet_socket(channel: socket.socket) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as opened:
        opened.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        opened.bind((DEVICE, _ETH_P_ALL))
        socket.send_fds(channel, [b"s"], [opened.fileno()])
