"""Heartbeats beside a saturated relay: how late the control process is, and whether anybody takes over for that.

Rule: a real pool. The holder's relay carries bulk both ways, flat out, on the cores that all control processes have.
The wire is judged by the kernel's own timestamps. While the load runs, what the gateways send to a manager's port goes
to the load's server: the pool's own updates are closed there, and its elections must not mind. As root; two minutes.
"""

import argparse
import contextlib
import ctypes
import json
import os
import socket
import struct
import subprocess
import threading
from typing import Any

import trio

from gateway.lab.network import NAMESPACES, namespace_path
from gateway.lab.pool import Lab
from gateway.lab.topology import CONDOR_PORT, PEER_PORT, Kind, Topology
from tests.bench import results
from tests.bench.plane.loadgen import NoCompilerError, binary
from tests.bench.plane.segment import end_by_signals

LOAD_PORT = 9700
HEARTBEAT_MS = 50  # as the lab's configuration file says
SETTLE_S = 5.0
IDLE_S_MAX = 10.0
READY_S_MAX = 120
LATE_S_MAX = 60  # a load that takes this much longer is stuck
CLONE_NEWNET = 0x40000000
ETH_P_IP = 0x0800
SO_ATTACH_FILTER, SO_TIMESTAMPNS = 26, 35

# In a manager's namespace: what the gateways send to the collector goes to the load's server.
TAKEN = """\
table ip cgbench {{
    chain before {{
        type nat hook prerouting priority dstnat;
        ip saddr {{ {gateways} }} tcp dport {port} redirect to :{load_port}
    }}
}}
"""


class Wire:
    """When the heartbeats of one host arrive at another's device; the kernel stamps them, whoever is busy."""

    def __init__(self, namespace: str, source: str) -> None:
        self._gap_ns = 0
        self.datagrams = 0
        self._last_ns: int | None = None
        self._over = threading.Event()
        self._socket = _packet_socket(namespace, source)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        self._socket.settimeout(0.2)
        while not self._over.is_set():
            with contextlib.suppress(TimeoutError):
                _data, ancillary, _flags, _from = self._socket.recvmsg(256, 64)
                seconds, nanoseconds = struct.unpack("qq", ancillary[0][2][:16])
                self._note(seconds * 1_000_000_000 + nanoseconds)

    def _note(self, at_ns: int) -> None:
        if self._last_ns is not None:
            self._gap_ns = max(self._gap_ns, at_ns - self._last_ns)
        self._last_ns = at_ns
        self.datagrams += 1

    def longest_ms(self) -> float:
        """Return the longest time without a heartbeat, and begin anew."""
        longest, self._gap_ns = self._gap_ns, 0
        return longest / 1e6

    def close(self) -> None:
        self._over.set()
        self._thread.join(2)
        self._socket.close()


def _packet_socket(namespace: str, source: str) -> socket.socket:
    """Return a packet socket in a namespace that hears only heartbeats of `source`."""
    address = int.from_bytes(socket.inet_aton(source), "big")
    # BPF on the frame: IPv4's source, UDP, destination port; the head has no options.
    program = [
        (0x20, 0, 0, 26),  # A = source
        (0x15, 0, 5, address),
        (0x30, 0, 0, 23),  # A = protocol
        (0x15, 0, 3, 17),
        (0x28, 0, 0, 36),  # A = destination port
        (0x15, 0, 1, PEER_PORT),
        (0x06, 0, 0, 256),  # take it
        (0x06, 0, 0, 0),
    ]
    packed = b"".join(struct.pack("HBBI", *one) for one in program)
    found: list[socket.socket] = []

    def make() -> None:  # a thread that enters the namespace, and ends there
        libc = ctypes.CDLL(None, use_errno=True)
        opened = os.open(NAMESPACES / namespace, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if libc.setns(opened, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"entering {namespace}")
        finally:
            os.close(opened)
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        room = ctypes.create_string_buffer(packed)
        made.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", len(program), ctypes.addressof(room)))
        made.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        made.bind(("eth0", ETH_P_IP))
        found.append(made)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if not found:
        raise SystemExit(f"no packet socket in {namespace}")
    return found[0]


class Pool:
    """The pool, and what runs in its hosts' networks."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.topology = lab.topology
        self.managers = [host.name for host in self.topology.of_kind(Kind.MANAGER)]
        self.gateways = [host.name for host in self.topology.of_kind(Kind.GATEWAY)]
        self._servers: list[subprocess.Popen[str]] = []

    def argv(self, host: str, *command: str) -> list[str]:
        """Return a command as it runs in a host's network; it ends when we do."""
        inside = ["nsenter", f"--net={namespace_path(self.topology, host)}"]
        return ["setpriv", "--pdeathsig", "KILL", *inside, *command]

    def serve_load(self) -> None:
        """Serve the load on every manager, in its collector's place."""
        gateways = ", ".join(self.topology.host(name).address for name in self.gateways)
        rules = TAKEN.format(gateways=gateways, port=CONDOR_PORT, load_port=LOAD_PORT)
        for number, name in enumerate(self.managers, 1):
            argv = self.argv(name, str(binary()), "serve", "0.0.0.0", str(LOAD_PORT), str(number))
            server = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
            self._servers.append(server)
            assert server.stdout is not None
            server.stdout.readline()
            subprocess.run(self.argv(name, "nft", "-f", "-"), input=rules, text=True, check=True)

    def close(self) -> None:
        """End the servers."""
        for server in self._servers:
            server.kill()
            server.wait()
            assert server.stdout is not None
            server.stdout.close()

    async def status(self, name: str) -> dict[str, Any]:
        """Return what a node says of itself."""
        said = await self.lab.gateway_status(name)
        assert said is not None, f"{name} does not answer"
        return said

    async def terms(self) -> dict[str, tuple[str | None, int]]:
        """Return who leads, and since which term, by election."""
        said = await self.status(self.managers[-1])
        return {name: (one["leader"], one["term"]) for name, one in said["elections"].items()}

    async def saturate(self, seconds: float) -> tuple[float, int]:
        """Carry bulk both ways; return Gbit/s in all, and what was wrong (broken streams, wrong bytes)."""
        client = self.topology.of_kind(Kind.EXECUTE)[0].name
        answers = []

        async def run(way: str) -> None:
            argv = [str(binary()), way, self.topology.virtual_address, str(CONDOR_PORT), "8", str(seconds)]
            with trio.fail_after(seconds + LATE_S_MAX):
                # Not "with us": to the kernel that is the thread that starts it, and trio's ends after ten seconds.
                inside = ["nsenter", f"--net={namespace_path(self.topology, client)}"]
                done = await trio.run_process([*inside, *argv], capture_stdout=True)
            answers.append(json.loads(done.stdout))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, "up")
            nursery.start_soon(run, "down")
        return sum(one["gbit"] for one in answers), sum(one["broken"] + one["corrupt"] for one in answers)


async def measure(seconds: float) -> results.Table:
    """Return, idle and saturated, how late heartbeats were and who took over."""
    topology = Topology(name=f"sat{os.getpid()}", execute=1, slots=1)
    lab = await Lab.up(topology, print)
    pool = Pool(lab)
    try:
        await lab.wait_ready(READY_S_MAX)
        pool.serve_load()
        await trio.sleep(SETTLE_S)
        holder = str((await pool.terms())["pool-vip"][0])
        other = next(name for name in pool.gateways if name != holder)
        with contextlib.closing(Wire(topology.namespace(other), topology.host(holder).address)) as wire:
            return {
                "idle": await _phase(pool, holder, wire, min(seconds, IDLE_S_MAX), load=False),
                "saturated": await _phase(pool, holder, wire, seconds, load=True),
            }
    finally:
        pool.close()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 60):
            await lab.down()


async def _phase(pool: Pool, holder: str, wire: Wire, seconds: float, *, load: bool) -> dict[str, Any]:
    told, terms = await pool.status(holder), await pool.terms()
    wire.longest_ms()
    gbit, wrong = 0.0, 0
    if load:
        gbit, wrong = await pool.saturate(seconds)
    else:
        await trio.sleep(seconds)
    longest_ms = wire.longest_ms()
    said, now = await pool.status(holder), await pool.terms()
    late_ms, before_ms = said["timer_late_ms_max"], told["timer_late_ms_max"]
    return {
        "Gbit/s": gbit,
        # The node's own account is of its whole life.
        "timer late ms max": late_ms if late_ms > before_ms else f"<= {before_ms}",
        "late timers": said["slowness"]["late_timers_total"] - told["slowness"]["late_timers_total"],
        "longest silence ms": longest_ms,
        "heartbeat late ms max": max(0.0, longest_ms - HEARTBEAT_MS),
        "takeovers": sum(now[name] != terms[name] for name in now),
        "broken or wrong": wrong,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    results.add_arguments(parser)
    chosen = parser.parse_args()
    try:
        binary()
    except NoCompilerError as error:
        raise SystemExit(f"not measured: {error}") from None
    end_by_signals()
    results.report("saturated", trio.run(measure, chosen.seconds), chosen)


if __name__ == "__main__":
    main()
