"""Heartbeats beside a saturated relay: how late the control process is, and whether anybody takes over for that.

Rule: real nodes, heartbeats and relay, no HTCondor; the holder's relay carries bulk both ways, flat out, on the cores
that the control processes have. The wire is judged by the kernel's own timestamps. As root; two minutes.
"""

import argparse
import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from gateway.keyfiles import create_key_file
from tests.bench import results
from tests.bench.plane import contenders
from tests.bench.plane.loadgen import ROOT, NoCompilerError, binary
from tests.bench.plane.segment import DEVICE, NAMESPACES, Segment, end_by_signals
from tests.support.nodes import address_text, head_text

HOSTS = {"gw1": 1, "gw2": 2, "cm1": 5, "client": 50}
NODES = ("gw1", "gw2", "cm1")
ADDRESS = "10.77.0.100"
PORT, PEER_PORT = contenders.PORT, 9619
HEARTBEAT_MS = 50  # as `head_text` says
READY_S_MAX = 30
SETTLE_S = 3.0
CLONE_NEWNET = 0x40000000
ETH_P_IP = 0x0800
SO_ATTACH_FILTER, SO_TIMESTAMPNS = 26, 35


# `condor_config_val -macro TEXT...`: each text with its macros expanded, from these and from what the node has written.
CONFIG_VAL = """\
import glob, re, sys
known = {known!r}
for path in sorted(glob.glob(known["LOCAL_CONFIG_DIR"] + "/*")):
    for line in open(path):
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            known[name.strip()] = value.strip()
for text in sys.argv[2:]:
    while (found := re.search(r"\\$\\(([^():]+)(?::([^()]*))?\\)", text)):
        text = text[:found.start()] + known.get(found[1], found[2] or "") + text[found.end():]
    print(text)
"""


class Nodes:
    """The nodes, each on its host."""

    def __init__(self, segment: Segment, folder: Path) -> None:
        self.segment = segment
        self.folder = folder
        create_key_file(folder / "cluster.key")
        peers = {name: segment.addresses[name] for name in NODES}
        sections = address_text("vip", f"{ADDRESS}/32", "gw1 gw2", DEVICE)
        sections += f"frontend matchmaker\n    bind vip:{PORT} proto tcp,udp\n    default_backend managers\n"
        sections += "backend managers\n    balance elected\n    forward proxy\n"
        sections += f"    default-server check inter 1s fall 30 rise 1\n    server cm1 {peers['cm1']}:{PORT}\n"
        for name in NODES:
            self._config(name).write_text(head_text("saturated", peers, folder, name) + sections)
        path = self._stand_in()
        for name in NODES:
            argv = [sys.executable, "-P", "-m", "gateway", "run", "--node", name, "-f", str(self._config(name))]
            log = (folder / f"{name}.log").open("a")
            # Not by Segment.spawn: nobody reads what a node prints.
            self.segment.spawn(
                name, ["sh", "-c", 'exec "$@" >&2', "node", *argv], log=log, cwd=ROOT, env={**os.environ, "PATH": path}
            )

    def _stand_in(self) -> str:
        """Make what a manager's node asks about its HTCondor, of which there is none; return a PATH."""
        folder = self.folder / "condor"
        (folder / "config.d").mkdir(parents=True)
        known = {"LOCAL_CONFIG_DIR": folder / "config.d", "CONDOR_IDS": "0.0", "CONDOR_VERSION": "25.0.0"}
        known |= dict.fromkeys(("SPOOL", "LOG"), folder) | dict.fromkeys(
            ("MASTER", "NEGOTIATOR", "COLLECTOR"), "/bin/true"
        )
        known |= {"FULL_HOSTNAME": "cm1", "DAEMON_LIST": "MASTER, COLLECTOR"}
        tool = folder / "condor_config_val"
        tool.write_text(
            f"#!{sys.executable} -IS\n{CONFIG_VAL.format(known={key: str(value) for key, value in known.items()})}"
        )
        tool.chmod(0o755)
        return f"{folder}:{os.environ['PATH']}"

    def _config(self, name: str) -> Path:
        return self.folder / f"{name}.cfg"

    def status(self, name: str) -> dict[str, Any]:
        """Return what a node says of itself; empty while it does not answer."""
        argv = [sys.executable, "-P", "-m", "gateway", "status", "--json", "-f", str(self._config(name))]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
        return json.loads(done.stdout) if done.returncode == 0 else {}

    def wait_ready(self) -> str:
        """Return who holds the address, as soon as clients are served."""
        end = time.monotonic() + READY_S_MAX
        while time.monotonic() < end:
            holder = (self.status("gw1").get("elections", {}).get("vip") or {}).get("leader")
            if holder and self._serves():
                return str(holder)
            time.sleep(0.2)
        print(
            json.dumps(self.status("cm1").get("elections"), indent=1), self.status("gw1").get("relay"), file=sys.stderr
        )
        logs = "\n".join(path.read_text()[-1_500:] for path in sorted(self.folder.glob("*.log")))
        raise SystemExit(f"nobody serves {ADDRESS} after {READY_S_MAX} s:\n{logs}")

    def _serves(self) -> bool:
        done = subprocess.run(
            self.segment.argv("client", [str(binary()), "latency", ADDRESS, str(PORT), "64", "0.01"]),
            capture_output=True,
            timeout=20,
            check=False,
        )
        return done.returncode == 0

    def takeovers(self) -> int:
        """Return how often somebody has begun to lead, by the terms of all elections."""
        said = self.status("cm1")
        return sum(int(election["term"]) for election in said["elections"].values())


class Wire:
    """When the heartbeats of one host arrive at another's device; the kernel stamps them, whoever is busy."""

    def __init__(self, segment: Segment, at: str, source: str) -> None:
        self._gap_ns = 0
        self.datagrams = 0
        self._last_ns: int | None = None
        self._over = threading.Event()
        self._socket = _packet_socket(segment.namespace(at), segment.addresses[source])
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
        import ctypes

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
        made.bind((DEVICE, ETH_P_IP))
        found.append(made)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if not found:
        raise SystemExit(f"no packet socket in {namespace}")
    return found[0]


def saturate(segment: Segment, seconds: float) -> tuple[float, int]:
    """Carry bulk both ways; return Gbit/s in all, and what was wrong (broken streams, wrong bytes)."""
    loads = [[str(binary()), way, ADDRESS, str(PORT), "8", str(seconds)] for way in ("up", "down")]
    running = [subprocess.Popen(segment.argv("client", argv), stdout=subprocess.PIPE, text=True) for argv in loads]
    answers = [json.loads(process.communicate(timeout=seconds + 60)[0]) for process in running]
    return sum(one["gbit"] for one in answers), sum(one["broken"] + one["corrupt"] for one in answers)


def measure(seconds: float, *, pinned: bool) -> results.Table:
    """Return, idle and saturated, how late heartbeats were and who took over."""
    table: results.Table = {}
    with Segment(HOSTS) as segment:
        server = segment.spawn("cm1", [str(binary()), "serve", "0.0.0.0", str(PORT), "1"])
        assert server.stdout is not None
        server.stdout.readline()
        nodes = Nodes(segment, segment.folder)
        holder = nodes.wait_ready()
        other = next(one for one in ("gw1", "gw2") if one != holder)
        if pinned:
            one_core = {max(os.sched_getaffinity(0))}
            segment.pin(one_core)
            os.sched_setaffinity(0, one_core)  # what we start from here on
        time.sleep(SETTLE_S)
        wire = Wire(segment, other, holder)
        try:
            for what in ("idle", "saturated"):
                told, terms = nodes.status(holder), nodes.takeovers()
                wire.longest_ms()
                gbit, wrong = 0.0, 0
                if what == "idle":
                    time.sleep(min(seconds, 10))
                else:
                    gbit, wrong = saturate(segment, seconds)
                longest_ms = wire.longest_ms()
                said = nodes.status(holder)
                table[what] = {
                    "Gbit/s": gbit,
                    "timer late ms, since start": said["timer_late_ms_max"],
                    "before": told["timer_late_ms_max"],
                    "late timers": said["slowness"]["late_timers_total"] - told["slowness"]["late_timers_total"],
                    "longest silence ms": longest_ms,
                    "heartbeat late ms": max(0.0, longest_ms - HEARTBEAT_MS),
                    "takeovers": nodes.takeovers() - terms,
                    "broken or wrong": wrong,
                }
        finally:
            wire.close()
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--pinned", action="store_true", help="everything on one core")
    results.add_arguments(parser)
    chosen = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("not measured: network namespaces need root")
    contenders.raise_file_limit()
    end_by_signals()
    try:
        results.report("saturated", measure(chosen.seconds, pinned=chosen.pinned), chosen)
    except NoCompilerError as error:
        raise SystemExit(f"not measured: {error}") from None


if __name__ == "__main__":
    main()
