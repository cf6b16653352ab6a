"""Herald: a process of its own that tells commands and a named pipe what happens on this node, one thing after another.

Rule: an event is told once, and in its turn. What has been told is written down before the next is begun, so that a
herald that dies or is replaced goes on where it was; what happened meanwhile waits at the node.

It drops root's rights before it has read anything. A command is run without a shell, with an environment of its own,
the event as JSON on its standard input, and a deadline.
"""

import contextlib
import errno
import fcntl
import json
import os
import pwd
import signal
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from gateway.config.settings import LogFormat
from gateway.console.herald_command import run_command
from gateway.console.logs import start_log, stop_log

STATE_BYTES: Final = 64  # in one write, so that it is never half new
QUIET: Final = frozenset({"phase"})  # steps of a change whose end is `served-again`: not worth a command each
# keepalived's words for what a node is in an instance.
MASTER, BACKUP, FAULT, STOP = "MASTER", "BACKUP", "FAULT", "STOP"


class Charge(msgspec.Struct, frozen=True, kw_only=True):
    """What a herald is started with. `since`: where the node's events began that no herald has told yet."""

    cluster: str
    node: str
    state: str  # path of its own file
    commands: tuple[tuple[str, ...], ...]
    fifo: str
    user: str
    timeout_ms: int
    since: int = 0
    log: LogFormat = LogFormat.JSON


class Told(msgspec.Struct, frozen=True):
    """How far the telling has come: all up to `seq`; of the event `begun`, `commands` of them have been run."""

    seq: int = 0
    begun: int = 0
    commands: int = 0


class Memory:
    """What has been told, on the disk. One herald at a time: the next one waits until this process has ended.

    Raises:
        OSError: the file can't be had.
    """

    def __init__(self, path: str, since: int) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)  # a herald that is being replaced finishes its command
        self._since = since
        self.told = self._read()

    def _read(self) -> Told:
        words = os.pread(self._file, STATE_BYTES, 0).split()
        if len(words) != len(Told.__struct_fields__) or not all(word.isdigit() for word in words):
            return Told(self._since)  # the first one on this host
        return Told(*map(int, words))

    def note(self, told: Told) -> None:
        """Write down how far it has come. A full disk can't refuse what overwrites what is there."""
        self.told = told
        os.pwrite(self._file, f"{told.seq} {told.begun} {told.commands}".ljust(STATE_BYTES).encode(), 0)


class Herald:
    """Tells one event after the other.

    Args:
        charge: whom to tell.
        memory: what has been told.
        pipe: descriptor of the named pipe; None: there is none.
    """

    def __init__(self, charge: Charge, memory: Memory, pipe: int | None) -> None:
        self._charge = charge
        self._memory = memory
        self._pipe = pipe
        self._log = structlog.get_logger()

    def take(self, event: dict[str, Any]) -> None:
        """Tell an event, and note that it is told."""
        seq, name = event["seq"], event["event"]
        if name == "dropped":
            self._log.error("notify.missed", events=event["count"])
        elif name not in QUIET:
            self._tell(event, seq)
        else:
            return  # the next one that is told brings the number along
        self._memory.note(Told(seq))

    def _tell(self, event: dict[str, Any], seq: int) -> None:
        told = self._memory.told
        done = told.commands if told.begun == seq else 0
        if done == 0:
            self._write_line(event)
        for number, argv in enumerate(self._charge.commands):
            if number < done:
                continue
            outcome = run_command(argv, environment_of(event, self._charge), json.dumps(event), self._charge.timeout_ms)
            said = {"seq": seq, "about": event["event"], "command": argv[0]}
            said |= {"took_ms": outcome.took_ms, "said": outcome.said}
            if outcome.failure:
                self._log.error("notify.failed", reason=outcome.failure, **said)
            else:
                self._log.info("notify.told", **said)
            self._memory.note(Told(told.seq, seq, number + 1))

    def _write_line(self, event: dict[str, Any]) -> None:
        if self._pipe is None:
            return
        try:
            os.write(self._pipe, (line_of(event) + "\n").encode())
        except OSError as error:
            reason = "nobody reads" if error.errno == errno.EAGAIN else error.strerror
            self._log.warning("notify.fifo-full", seq=event["seq"], reason=reason)


def state_of(event: dict[str, Any]) -> str:
    """Return what this node has become in the event's election, in keepalived's words; "": nothing of that kind."""
    node, name = event["node"], event["event"]
    if name == "leader-changed":
        return MASTER if event["to"] == node else BACKUP
    if name == "leader-lost":
        return BACKUP if event["from"] == node else ""
    return {"unfit": FAULT, "fit": BACKUP}.get(name, "") if "election" in event else ""


def line_of(event: dict[str, Any]) -> str:
    """Return the pipe's line: `INSTANCE "pool-vip" MASTER 8` as keepalived's (the term for the priority), or words."""
    if state := state_of(event):
        return f'INSTANCE "{event["election"]}" {state} {event.get("term", 0)}'
    skipped = ("event", "seq", "at", "node", "phases")
    words = [f"{key}={json.dumps(value)}" for key, value in event.items() if key not in skipped and value is not None]
    return " ".join((f'EVENT "{event["event"]}"', *words))


def environment_of(event: dict[str, Any], charge: Charge) -> dict[str, str]:
    """Return a command's environment: a plain one, and the event's facts as GATEWAY_SOMETHING."""
    facts = {"cluster": charge.cluster, "state": state_of(event), **event}
    return {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"} | {
        f"GATEWAY_{key.upper().replace('-', '_')}": str(value)
        for key, value in facts.items()
        if value is not None and not isinstance(value, dict | list)
    }


# -- the process -----------------------------------------------------------------------------------------------------


def open_pipe(path: str, owner: pwd.struct_passwd | None) -> int:
    """Open the named pipe, which is made where it is not there, and belongs to whoever the commands run as.

    Open for reading as well, which Linux allows (fifo(7)): so nobody need read, and who reads later finds the last
    lines, 64 KiB of them.

    Raises:
        OSError: it can't be opened.
        ValueError: it is no pipe.
    """
    with contextlib.suppress(FileExistsError):
        os.mkfifo(path, 0o600)
        if owner is not None:
            os.chown(path, owner.pw_uid, owner.pw_gid)
    flags = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        pipe = os.open(path, flags)
    except PermissionError:  # root without CAP_DAC_OVERRIDE, and the pipe is its owner's alone
        if owner is None:
            raise
        os.seteuid(owner.pw_uid)
        try:
            pipe = os.open(path, flags)
        finally:
            os.seteuid(0)
    if not stat.S_ISFIFO(os.fstat(pipe).st_mode):
        os.close(pipe)
        raise ValueError(f"'{path}' is there and is no named pipe: remove it, or name another one")
    return pipe


def drop_rights(owner: pwd.struct_passwd) -> None:
    """Become `owner` for good."""
    os.initgroups(owner.pw_name, owner.pw_gid)
    os.setgid(owner.pw_gid)
    os.setuid(owner.pw_uid)


def events_of(node: socket.socket, after: int) -> Iterator[dict[str, Any]]:
    """Yield the node's events after that number, until it closes its end."""
    node.sendall(json.dumps({"command": "events", "after": after}).encode() + b"\n")
    with node.makefile("rb") as lines:
        for line in lines:
            yield json.loads(line)


def end_with_the_node_alone() -> None:
    """Let no signal but SIGKILL end this process.

    A service manager that ends everything at once ends the node as well, whose last events are still to be told.
    Signals have handlers and are not ignored, so that a command begins with the default again (execve(2)).
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)


def main(arguments: list[str]) -> int:
    """Run the herald: the number of its end of the socket, and its charge as JSON on standard input."""
    end_with_the_node_alone()
    charge = msgspec.json.decode(sys.stdin.buffer.read(), type=Charge)
    with socket.socket(fileno=int(arguments[0])) as node:
        start_log(charge.log, charge.node)
        try:
            return _run(charge, node)
        finally:
            stop_log()


def _run(charge: Charge, node: socket.socket) -> int:
    log = structlog.get_logger()
    pipe = None
    try:
        owner = pwd.getpwnam(charge.user) if os.geteuid() == 0 else None
        Path(charge.state).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        memory = Memory(charge.state, charge.since)
    except (KeyError, OSError) as error:
        known = f"there is no user '{charge.user}'" if isinstance(error, KeyError) else str(error)
        log.error("notify.not-started", reason=known)
        return 1
    try:
        pipe = open_pipe(charge.fifo, owner) if charge.fifo else None
    except (OSError, ValueError) as error:  # the commands are told all the same
        log.error("notify.no-fifo", reason=str(error))
    if owner is not None:
        drop_rights(owner)
    herald = Herald(charge, memory, pipe)
    for event in events_of(node, memory.told.seq):
        herald.take(event)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
