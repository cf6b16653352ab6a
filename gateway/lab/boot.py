"""The first process of a lab's host: makes its namespaces, mounts its disk, starts its services, reaps the dead.

Run by path with `python3 -I -S`, so it imports the standard library alone. When it dies the kernel kills every
process of the host: that is how a host is killed, and nothing of it can be left behind.
"""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import sys
from pathlib import Path
from typing import Any

# linux/sched.h, linux/mount.h
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWPID, CLONE_NEWNET = (
    0x00020000, 0x04000000, 0x08000000, 0x20000000, 0x40000000,
)  # fmt: skip
MS_RDONLY, MS_NOSUID, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 32, 4096, 16384, 1 << 18
MNT_DETACH = 2

READY_S_MAX = 30  # mounting takes milliseconds; a machine that swaps may need seconds

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: Any) -> None:
    """Call a function of the C library; raise `OSError` where it returns -1."""
    given = [value.encode() if isinstance(value, str) else value for value in arguments]
    if getattr(_libc, name)(*given) == -1:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}{arguments}: {os.strerror(error)}")


def _mount(source: str, target: Path | str, kind: str | None, flags: int = 0, data: str | None = None) -> None:
    _call("mount", source, str(target), kind, ctypes.c_ulong(flags), data)


def _bind(source: str, target: Path | str, *, writable: bool = False) -> None:
    _mount(source, target, None, MS_BIND)
    _mount("none", target, None, MS_REMOUNT | MS_BIND | (0 if writable else MS_RDONLY))


def _mount_disk(spec: dict[str, Any]) -> None:
    disk = Path(spec["disk"])
    root = disk / "root"
    shutil.rmtree(disk / "work", ignore_errors=True)  # of an earlier boot; it holds no data
    for name in ("upper", "work", "root"):
        (disk / name).mkdir(exist_ok=True)
    _mount("none", "/", None, MS_REC | MS_PRIVATE)  # nothing mounted from here on is seen by the machine
    _mount("overlay", root, "overlay", 0, f"lowerdir={spec['tree']},upperdir={disk / 'upper'},workdir={disk / 'work'}")
    _mount("tmpfs", root / "run", "tmpfs", MS_NOSUID, "mode=755,size=64m")
    _mount("tmpfs", root / "dev/shm", "tmpfs", MS_NOSUID, "mode=1777,size=64m")
    _mount("devpts", root / "dev/pts", "devpts", MS_NOSUID, "newinstance,ptmxmode=0666,mode=0620")
    _mount("proc", root / "proc", "proc")
    _mount("sysfs", root / "sys", "sysfs", MS_NOSUID | MS_RDONLY)
    # The sysctls of the network are the host's own; all others are the machine's, and stay as they are.
    _bind(str(root / "proc/sys"), root / "proc/sys")
    _bind(str(root / "proc/sys/net"), root / "proc/sys/net", writable=True)
    for source, target in spec["binds"]:
        _bind(source, root / target.lstrip("/"))
    os.chdir(root)
    _call("pivot_root", ".", ".")  # pivot_root(2): the old root now lies on top of the new one
    _call("umount2", ".", MNT_DETACH)
    os.chdir("/")


def _make_folders(folders: list[tuple[str, int, int]]) -> None:
    for path, owner, mode in folders:
        Path(path).mkdir(parents=True, exist_ok=True)
        os.chown(path, owner, owner)
        Path(path).chmod(mode)


def _start(service: dict[str, Any]) -> None:
    """Start a service with its output appended to its log. It is not started again when it ends."""
    if os.fork():
        return
    try:
        os.setsid()
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and a child would inherit that
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        log = os.open(service["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.execve(service["argv"][0], service["argv"], service["environment"])
    except OSError as error:
        os.write(2, f"cannot start {service['argv'][0]}: {error}\n".encode())
    finally:
        os._exit(127)


def _reap_for_ever() -> None:
    """Collect dead processes; SIGUSR1 stops and SIGUSR2 continues all others. Ends with the death of the host."""
    while True:
        match signal.sigwait({signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2}):
            case signal.SIGUSR1:
                _to_all(signal.SIGSTOP)
            case signal.SIGUSR2:
                _to_all(signal.SIGCONT)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass


def _to_all(number: int) -> None:
    # kill(2) with -1 reaches every process of this PID namespace except its first, in one step.
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, number)


def _first_process(spec: dict[str, Any], ready: int) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2})
    try:
        _call("unshare", CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC)
        _mount_disk(spec)
        socket.sethostname(spec["hostname"])
        _make_folders(spec["folders"])
    except OSError as error:
        os.write(ready, f"{error}".encode())
        os._exit(1)
    null = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.umask(0o022)
    for service in spec["services"]:
        _start(service)
    os.write(ready, b"ready")
    os.close(ready)
    _reap_for_ever()


def _started(pid: int) -> int:
    """When a process started, in ticks since the machine's boot: with its id, what tells it from all others."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def main() -> int:
    """Read a host's specification from the standard input, boot it, and print the id and start of its first process."""
    spec = json.load(sys.stdin)
    os.setsid()
    with open(spec["namespace"]) as namespace:
        _call("setns", namespace.fileno(), CLONE_NEWNET)
    _call("unshare", CLONE_NEWPID)  # for the children of this process; the first of them is number 1
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _first_process(spec, writing)
    os.close(writing)
    started = _started(pid)
    signal.alarm(READY_S_MAX)
    said = os.read(reading, 4096).decode()
    if said != "ready":
        print(said or "its first process died", file=sys.stderr)
        return 1
    print(json.dumps({"pid": pid, "started": started}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
