"""Who carries the client's connections to the servers: nobody, others' programs, and ours.

Rule: each has a gateway of its own, so that the rules and the conntrack of one do not slow another.
"""

import contextlib
import json
import os
import re
import resource
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from tests.bench.plane import programs
from tests.bench.plane.loadgen import ROOT
from tests.bench.plane.segment import DEVICE, Segment

PORT = 9618
SERVERS = {1: "be1", 2: "be2"}  # by their number, as the load generator's server says it
START_S_MAX = 20
NOFILE_WANTED = 65_536
DESCRIPTORS_BESIDES = 200  # of listeners, epolls, logs


def raise_file_limit() -> int:
    """Allow us and what we start as many file descriptors as may be; return how many."""
    with contextlib.suppress(ValueError, OSError):  # root without CAP_SYS_RESOURCE
        resource.setrlimit(resource.RLIMIT_NOFILE, (NOFILE_WANTED, NOFILE_WANTED))
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def connections_max() -> int:
    """Return how many connections a process here can carry: two descriptors each."""
    return (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - DESCRIPTORS_BESIDES) // 200 * 100


class ContenderError(Exception):
    """A contender does not run."""


class Contender(ABC):
    """One way from the client to a server."""

    name: ClassVar[str]
    title: ClassVar[str]
    carries_udp: ClassVar[bool] = True
    can_switch: ClassVar[bool] = True
    idle_max: ClassVar[int] = 10_000

    def __init__(self, segment: Segment, folder: Path) -> None:
        self.segment = segment
        self.folder = folder
        self.host = f"gw-{self.name}"
        self._log = (folder / f"{self.name}.log").open("a")

    @property
    def address(self) -> str:
        """Where clients connect to."""
        return self.segment.addresses[self.host]

    def server(self, number: int) -> str:
        """Return the address of a server."""
        return self.segment.addresses[SERVERS[number]]

    @classmethod
    def version(cls) -> str:
        """Return what there is to say of its version; raises `programs.MissingError` where it cannot run."""
        return ""

    @abstractmethod
    def start(self) -> None:
        """Run, towards server 1."""

    def stop(self) -> None:
        """End; `start` begins anew."""
        self.segment.clear(self.host)

    def switch(self, number: int) -> int:
        """Go to another server; return when that was decided (CLOCK_MONOTONIC, ns)."""
        raise NotImplementedError

    def pids(self) -> list[int]:
        """Return the processes that hold a connection's memory."""
        return self.segment.pids(self.host)

    def _spawn(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        return self.segment.spawn(self.host, argv, log=self._log, **options)

    def _wait_open(self) -> None:
        """Wait until the port is listened on."""
        end = time.monotonic() + START_S_MAX
        while time.monotonic() < end:
            if f":{PORT} " in self.segment.run(self.host, ["ss", "-Hltn"]):
                return
            time.sleep(0.05)
        raise ContenderError(f"{self.name} does not listen: see {self._log.name}")


class Connection(Contender):
    """Nobody in between."""

    name = "connection"
    title = "direct connection"
    can_switch = False

    @property
    def address(self) -> str:
        return self.server(1)

    def start(self) -> None:
        pass


class Haproxy(Contender):
    """HAProxy as Debian has it, one thread."""

    name = "haproxy"
    title = "HAProxy, 1 thread"
    carries_udp = False

    @classmethod
    def version(cls) -> str:
        return _said_version("haproxy", ["-v"], r"version (\S+)")

    def start(self) -> None:
        config = self.folder / "haproxy.cfg"
        self._admin = self.folder / "haproxy.sock"
        most = connections_max()
        config.write_text(
            f"global\n nbthread 1\n maxconn {most}\n stats socket {self._admin} mode 600 level admin\n"
            "defaults\n mode tcp\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n"
            f"frontend matchmaker\n bind {self.address}:{PORT}\n maxconn {most}\n default_backend managers\n"
            f"backend managers\n server manager {self.server(1)}:{PORT}\n"
        )
        found = programs.program("haproxy")
        self._spawn([str(found.path), "-db", "-f", str(config)], env={**os.environ, **found.environment})
        self._wait_open()

    def switch(self, number: int) -> int:
        decided = time.monotonic_ns()
        with socket.socket(socket.AF_UNIX) as admin:
            admin.connect(str(self._admin))
            admin.sendall(
                f"set server managers/manager addr {self.server(number)} port {PORT}; "
                "shutdown sessions server managers/manager\n".encode()
            )
            while admin.recv(4096):
                pass
        return decided


class Nginx(Contender):
    """nginx' stream module, one worker."""

    name = "nginx"
    title = "nginx stream, 1 worker"

    @classmethod
    def version(cls) -> str:
        return _said_version("nginx", ["-v"], r"nginx/(\S+)")

    def start(self) -> None:
        self._configure(1)
        found = programs.program("nginx")
        argv = [str(found.path), "-p", str(self.folder), "-e", "stderr", "-c", str(self.folder / "nginx.conf")]
        self._master = self._spawn(argv, env={**os.environ, **found.environment})
        self._wait_open()

    def _configure(self, number: int) -> None:
        to, nofile = f"{self.server(number)}:{PORT}", resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        module = programs.program("nginx").root / programs.MODULE
        (self.folder / "nginx.conf").write_text(
            f"load_module {module};\nuser root;\ndaemon off;\nworker_processes 1;\npid {self.folder}/nginx.pid;\n"
            f"error_log stderr warn;\nworker_rlimit_nofile {nofile};\nworker_shutdown_timeout 10ms;\n"
            f"events {{ worker_connections {nofile}; }}\n"
            "stream {\n"
            f" server {{ listen {self.address}:{PORT} backlog=4096; proxy_pass {to}; proxy_timeout 1h;"
            " proxy_half_close on; }\n"
            f" server {{ listen {self.address}:{PORT} udp; proxy_pass {to}; proxy_timeout 60s; }}\n}}\n"
        )

    def switch(self, number: int) -> int:
        self._configure(number)
        decided = time.monotonic_ns()
        self._master.send_signal(1)  # SIGHUP
        return decided


class Socat(Contender):
    """socat, a process each connection."""

    name = "socat"
    title = "socat"
    carries_udp = False
    can_switch = False
    idle_max = 1_000  # processes

    @classmethod
    def version(cls) -> str:
        return _said_version("socat", ["-V"], r"socat version (\S+)")

    def start(self) -> None:
        found = programs.program("socat")
        listen = f"TCP-LISTEN:{PORT},bind={self.address},fork,reuseaddr,backlog=4096,nodelay"
        argv = [str(found.path), listen, f"TCP:{self.server(1)}:{PORT},nodelay"]
        self._spawn(argv, env={**os.environ, **found.environment})
        self._wait_open()


class Ours(Contender):
    """A process that runs ours in the gateway's namespace, and is told to switch: `tests.bench.plane.host`."""

    kind: ClassVar[str] = ""  # what the process is; "": as the contender's name
    source: ClassVar[Path] = ROOT  # the checkout that it runs

    @property
    def arguments(self) -> dict[str, Any]:
        """What the process must know."""
        return {
            "address": self.address,
            "port": PORT,
            "servers": {str(number): self.server(number) for number in SERVERS},
            "macs": {str(number): self.segment.mac(host) for number, host in SERVERS.items()},
            "connections_max": connections_max(),
            "folder": str(self.folder),
        }

    def start(self) -> None:
        self._process = self._host(self.host, self.kind or self.name)

    def _host(self, host: str, kind: str) -> subprocess.Popen[str]:
        # -P and the path: from the checkout that is meant, and the relay below it as well.
        argv = [sys.executable, "-P", "-m", "tests.bench.plane.host", kind, json.dumps(self.arguments)]
        environment = {**os.environ, "PYTHONPATH": f"{self.source}:{ROOT}"}
        process = self.segment.spawn(host, argv, log=self._log, env=environment)
        self._told(process)
        return process

    def stop(self) -> None:
        self._end(self._process)
        super().stop()

    def _end(self, process: subprocess.Popen[str]) -> None:
        if process.stdin is not None:
            process.stdin.close()  # its sign to take its rules away
        try:
            process.wait(START_S_MAX)
        except subprocess.TimeoutExpired:
            print(f"{self.name} did not end by itself", file=sys.stderr)

    def switch(self, number: int) -> int:
        return int(self._ask(self._process, number)["decided_ns"])

    def _ask(self, process: subprocess.Popen[str], number: int) -> dict[str, Any]:
        assert process.stdin is not None
        process.stdin.write(f"{number}\n")
        process.stdin.flush()
        return self._told(process)

    def _told(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise ContenderError(f"{self.name} has ended: see {self._log.name}:\n{self._last_words()}")
        return json.loads(line)

    def _last_words(self) -> str:
        return Path(self._log.name).read_text()[-2_000:]


class Proxy(Ours):
    """`forward proxy` with one worker: the real relay process."""

    name = "proxy"
    title = "**proxy**, 1 worker"

    def pids(self) -> list[int]:
        """Return the relay's processes, without the one that tells it what to do."""
        return [
            pid for pid in super().pids() if b"gateway.relay" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        ]


class Before(Proxy):
    """The same of another checkout: what a change has brought."""

    name = "before"
    title = "proxy, before"
    kind = "proxy"


class Nat(Ours):
    """`forward nat`: the kernel's address translation."""

    name = "nat"
    title = "**nat**"

    def start(self) -> None:
        # Ended connections need not stay for minutes: a load generator makes what a pool makes in a day.
        super().start()
        self.segment.set_sysctls(self.host, {"net/netfilter/nf_conntrack_tcp_timeout_time_wait": "1"})

    def pids(self) -> list[int]:
        return []  # connections are the kernel's alone


class Direct(Ours):
    """`forward direct`: frames are sent on, the server answers the client itself."""

    name = "direct"
    title = "**direct**"
    own_address = "10.77.0.200"

    @property
    def address(self) -> str:
        return self.own_address

    def start(self) -> None:
        # The server holds the address as well, and neither answers nor asks for it by ARP.
        names = [f"net/ipv4/conf/{of}/arp_" for of in ("all", DEVICE)]
        for host in SERVERS.values():
            self.segment.set_sysctls(host, {f"{name}ignore": "1" for name in names})
            self.segment.set_sysctls(host, {f"{name}announce": "2" for name in names})
            self.segment.run(host, ["ip", "addr", "replace", f"{self.address}/32", "dev", "lo"])
        self.segment.run(self.host, ["ip", "addr", "replace", f"{self.address}/32", "dev", DEVICE])
        super().start()
        self._managers = {number: self._host(host, "destroy") for number, host in SERVERS.items()}

    def stop(self) -> None:
        for process in self._managers.values():
            self._end(process)
        super().stop()

    def switch(self, number: int) -> int:
        decided_ns = super().switch(number)
        self._ask(self._managers[3 - number], number)  # a heartbeat tells the old one, some milliseconds later
        return decided_ns

    def pids(self) -> list[int]:
        return []


ALL: tuple[type[Contender], ...] = (Connection, Haproxy, Nginx, Socat, Before, Proxy, Nat, Direct)


def _said_version(name: str, arguments: Sequence[str], pattern: str) -> str:
    found = programs.program(name)
    said = subprocess.run(
        [found.path, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **found.environment},
        timeout=20,
        check=False,
    )
    match = re.search(pattern, said.stdout + said.stderr)
    if match is None:
        raise programs.MissingError(f"{name} does not start: {(said.stderr or said.stdout).strip()[:200]}")
    return match[1]
