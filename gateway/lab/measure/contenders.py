"""The systems that move an address between two gateways, as the scenarios need them: start, end, look, name a process.

Every contender gets the same hosts, the same responder behind the address, and the same heartbeat.
"""

import contextlib
import shutil
import signal
import socket
import struct
import sys
from pathlib import Path
from typing import Any, Protocol

import trio

import gateway
from gateway.console.admin import AdminUnreachable, ask_admin
from gateway.keyfiles import create_key_file
from gateway.lab import keepalived, process, responder
from gateway.lab.errors import LabError
from gateway.lab.process import Process
from gateway.lab.segment import DEVICE, GATEWAYS, WITNESS, Host, Segment
from gateway.lab.topology import PEER_PORT, VIRTUAL_ADDRESS

RESPONDER_PORT = 7  # RFC 862
END_S_MAX = 20.0
STATUS_S_MAX = 1.0
HEARD_BEATS_MAX = 5
HEARD_MS_MIN = 300  # a busy machine is late; what is asked is who is there at all
ELECTION = "pool-vip"
OURS, KEEPALIVED = "ours", "keepalived"
# What is broken of a gateway's programs: the one that sends heartbeats, the one that watches over it, everything.
CONTROL, GUARD, ALL = "control", "guard", "all"
SERVICE = "service"  # the daemon and what answers behind the address: that which a host runs, its guard left alone

_CONFIG = """\
global
    cluster {cluster}
    key-file {folder}/cluster.key
    state-dir {folder}/{me}
    log stdout format json

peers lan
    heartbeat {heartbeat_ms}ms
    lease {lease_ms}ms
{peers}

address {election}
    ip {address}/32 dev {device}
    holder {holders}
"""


class Contender(Protocol):
    """One system on one segment; `hosts` are those on which it runs."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def heartbeat_ms(self) -> int: ...  # noqa: D102
    @property
    def lease_ms(self) -> int: ...  # noqa: D102
    @property
    def segment(self) -> Segment: ...  # noqa: D102
    @property
    def hosts(self) -> tuple[str, ...]: ...  # noqa: D102

    def prepare(self) -> None:
        """Write what it needs; blocks for some milliseconds. The segment is up."""

    def start(self, host: str) -> None:
        """Start it on one host. Nothing of it runs there."""

    def victims(self, host: str, which: str) -> list[Process]:
        """Return the processes of `host` that a fault of this kind hits, in the order in which it hits them."""

    def stopped_by(self, host: str) -> list[Process]:
        """Return whom a service manager sends SIGTERM."""

    async def objections(self) -> tuple[str, ...]:
        """Return what speaks against measuring now."""

    async def end(self, host: str) -> None:
        """Kill what is left of it on one host, and take away what a reboot would."""

    def changes(self) -> int:
        """Return how often a gateway has become the holder, as their logs tell."""


class _Base:
    """What both contenders do alike: processes by namespace, a responder on each gateway."""

    name = ""
    hosts: tuple[str, ...] = GATEWAYS

    def __init__(self, segment: Segment, heartbeat_ms: int, lease_ms: int) -> None:
        self.segment = segment
        self.heartbeat_ms = heartbeat_ms
        self.lease_ms = lease_ms
        self._responders: dict[str, Process] = {}

    def log(self, host: str) -> Path:
        """Where the output of this system on `host` goes; it is appended to."""
        return self.segment.folder / f"{host}-{self.name}.log"

    def start_responder(self, host: str) -> None:
        """Start what answers on a gateway, unless it does."""
        known = self._responders.get(host)
        if host not in GATEWAYS or (known is not None and process.is_alive(known)):
            return
        argv = [sys.executable, "-S", "-E", str(Path(responder.__file__)), str(RESPONDER_PORT)]
        child = self.segment.start(host, argv, self.segment.folder / f"{host}-responder.log")
        found = process.find(child.pid)
        assert found is not None, "a child that was not waited for has an entry in /proc"
        self._responders[host] = found

    def _responder(self, host: str) -> list[Process]:
        return [one for one in [self._responders[host]] if process.is_alive(one)]

    def own(self, host: str) -> list[Process]:
        """Return this system's processes on `host`, oldest first: a parent before its children."""
        others = set(self._responders.values())
        return sorted(
            (one for one in self.segment.processes(host) if one not in others), key=lambda p: (p.started, p.pid)
        )

    async def end(self, host: str) -> None:
        """Kill what is left of it on one host, stopped or not.

        Raises:
            LabError: the kernel did not end a process in time.
        """
        with trio.move_on_after(END_S_MAX):
            while found := self.own(host):
                for one in found:
                    process.send(one, signal.SIGKILL)
                await trio.sleep(0.01)
            return
        raise LabError(f"processes of {host!r} did not end within {END_S_MAX:.0f} s")


class Ours(_Base):
    """condor-gateway: two gateways and a witness, three votes, `on-partition hold`."""

    name = OURS
    hosts = (*GATEWAYS, WITNESS)

    def prepare(self) -> None:
        """Copy this program, so that an edit in the midst of a series reaches none of it; write key and files."""
        folder = self.segment.folder
        # With what was compiled, which is told by the times of the sources.
        shutil.copytree(Path(gateway.__file__).parent, folder / "code" / "gateway", copy_function=shutil.copy2)
        key = folder / "cluster.key"
        key.unlink(missing_ok=True)
        create_key_file(key)
        roles = {**dict.fromkeys(GATEWAYS, "gateway"), WITNESS: "witness"}
        for host in self.hosts:
            (folder / host).mkdir(mode=0o700, exist_ok=True)
            for vote in (folder / host).iterdir():
                vote.unlink()
            text = _CONFIG.format(
                cluster=self.segment.name,
                folder=folder,
                me=host,
                heartbeat_ms=self.heartbeat_ms,
                lease_ms=self.lease_ms,
                peers="\n".join(f"    peer {name} {Host(name).ip}:{PEER_PORT} {roles[name]}" for name in self.hosts),
                election=ELECTION,
                address=VIRTUAL_ADDRESS,
                device=DEVICE,
                holders=" ".join(GATEWAYS),
            )
            (folder / f"{host}.cfg").write_text(text)

    def start(self, host: str) -> None:
        """Start the node of one host."""
        self.start_responder(host)
        file = str(self.segment.folder / f"{host}.cfg")
        running = ["env", f"PYTHONPATH={self.segment.folder / 'code'}", sys.executable, "-P", "-m", "gateway"]
        self.segment.start(host, [*running, "run", "--node", host, "-f", file], self.log(host))

    def control(self, host: str) -> Process:
        """Return the process that sends heartbeats: the one that answers at the admin socket.

        Raises:
            LabError: nobody does.
        """
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asked:
                asked.settimeout(STATUS_S_MAX)
                asked.connect(str(self.segment.folder / host / "admin.sock"))
                told = asked.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        except OSError as error:
            raise LabError(f"the node of {host!r} does not answer: {error}") from error
        found = process.find(struct.unpack("3i", told)[0])
        if found is None:
            raise LabError(f"the node of {host!r} has just ended")
        return found

    def victims(self, host: str, which: str) -> list[Process]:
        """Return control, its parent (itself, where it has none), or everything on the host."""
        match which:
            case "control":
                return [self.control(host)]
            case "service":
                return [self.control(host), *self._responder(host)]
            case "guard":
                return self.own(host)[:1]
        return [*self.own(host)[::-1], *self._responder(host)]

    def stopped_by(self, host: str) -> list[Process]:
        """Return the first process of the node."""
        return self.own(host)[:1]

    async def objections(self) -> tuple[str, ...]:
        """Ask every node: all are heard, one gateway leads and holds, and both are fit."""
        found: list[str] = []
        leaders = set()
        for host in self.hosts:
            path = self.segment.folder / host / "admin.sock"
            try:
                told = await trio.to_thread.run_sync(_status, path)
            except AdminUnreachable:
                found.append(f"the node of {host} does not answer; it said last: {_last_line(self.log(host))}")
                continue
            election = told["elections"][ELECTION]
            leaders.add(election["leader"])
            heard_ms_max = max(HEARD_BEATS_MAX * self.heartbeat_ms, HEARD_MS_MIN)
            for peer, seen in told["peers"].items():
                if seen["heard_ms_ago"] is None or seen["heard_ms_ago"] > heard_ms_max:
                    found.append(f"{host} does not hear {peer}")
            unfit = [name for name, standing in election["candidates"].items() if not (standing and standing["fit"])]
            found += [f"{host} thinks {name} unfit" for name in unfit]
        if len(leaders) != 1 or None in leaders:
            found.append(f"leaders: {', '.join(sorted(map(str, leaders))) or 'none'}")
        return tuple(found)

    def changes(self) -> int:
        """Count the elections won in the gateways' logs."""
        return sum(_count(self.log(host), '"election.won"') for host in GATEWAYS)


class Keepalived(_Base):
    """keepalived on two nodes. `lease_ms` is no setting of its own: it is what its figures are held against."""

    name = KEEPALIVED

    def __init__(self, segment: Segment, heartbeat_ms: int, lease_ms: int, program: keepalived.Program) -> None:
        super().__init__(segment, heartbeat_ms, lease_ms)
        self.program = program

    def prepare(self) -> None:
        """Write each gateway's file."""
        for host in self.hosts:
            (self.segment.folder / f"{host}-run").mkdir(exist_ok=True)
            (self.segment.folder / f"{host}-keepalived.conf").write_text(keepalived.config(host, self.heartbeat_ms))

    def start(self, host: str) -> None:
        """Start it on one gateway, as after a reboot: a killed one leaves pid files, with which it refuses to start."""
        self.start_responder(host)
        folder = self.segment.folder / f"{host}-run"
        for left in folder.iterdir():
            left.unlink()
        argv = self.program.argv(self.segment.folder / f"{host}-keepalived.conf", folder)
        self.segment.start(host, argv, self.log(host))

    def victims(self, host: str, which: str) -> list[Process]:
        """Return all its processes; with `all` the responder too; its parent alone as the guard."""
        own = self.own(host)
        match which:
            case "control":
                return own[::-1]  # its parent would end a child that it outlives in good order
            case "guard":
                return own[:1]
        return [*own[::-1], *self._responder(host)]

    async def end(self, host: str) -> None:
        """Kill it; then take the address, which it leaves behind, as a reboot would."""
        await super().end(host)
        if host in await self.segment.holders():
            argv = ["ip", "address", "del", f"{VIRTUAL_ADDRESS}/32", "dev", DEVICE]
            await self.segment.exec(host, argv)

    def stopped_by(self, host: str) -> list[Process]:
        """Return its parent process."""
        return self.own(host)[:1]

    async def objections(self) -> tuple[str, ...]:
        """Look for its two processes on each gateway."""
        return tuple(f"keepalived does not run on {host}" for host in self.hosts if len(self.own(host)) < 2)

    def changes(self) -> int:
        """Count the entries into the state MASTER."""
        return sum(_count(self.log(host), "Entering MASTER STATE") for host in GATEWAYS)


def contender_of(
    system: str, segment: Segment, heartbeat_ms: int, lease_ms: int, program: keepalived.Program | None
) -> Contender:
    """Return the contender of that name; `program` is there where it is keepalived."""
    if system == OURS:
        return Ours(segment, heartbeat_ms, lease_ms)
    assert program is not None, "it was fetched for a plan that names it"
    return Keepalived(segment, heartbeat_ms, lease_ms, program)


def _status(path: Path) -> Any:
    try:
        return ask_admin(path, "status", wait_s=STATUS_S_MAX)
    except OSError as error:  # it ended while it was asked
        raise AdminUnreachable(f"'{path}' fell silent: {error}") from error


def _last_line(path: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        return (path.read_text(errors="replace").splitlines() or ["nothing"])[-1]
    return "nothing"


def _count(path: Path, text: str) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.read_text(errors="replace").count(text)
    return 0


def is_stopped(one: Process) -> bool:
    """Return whether a process is stopped, as SIGSTOP leaves it (or dead)."""
    try:
        state = Path(f"/proc/{one.pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in process.STOPPED_STATES + process.ZOMBIE_STATES
