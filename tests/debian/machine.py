"""A Debian machine for one test: a root file system and namespaces of its own, and systemd as its first process.

It shares the kernel with this machine, and nothing else: no network but a pair of interfaces of its own, and a control
group below which its systemd is confined. All of it ends with the process that holds the namespaces.
"""

import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.lab.packages import KEYRING, mirror_uri
from gateway.lab.rootfs import cache_folder

INCLUDED = (
    "systemd", "systemd-sysv", "dbus", "python3", "nftables", "iproute2", "init-system-helpers", "procps", "kmod",
)  # fmt: skip
BOOTSTRAP_S_MAX = 600
BOOT_S_MAX = 60
COMMAND_S_MAX = 120
CGROUP2 = "unified"  # of a hybrid hierarchy

BOOT = """\
set -e
mount --make-rprivate /
mount -t overlay overlay -o lowerdir={lower},upperdir={work}/upper,workdir={work}/work {root}
mount -t proc proc {root}/proc
mount -t sysfs -o ro sysfs {root}/sys
mount -t tmpfs -o mode=755 tmpfs {root}/run
mount -t tmpfs tmpfs {root}/tmp
mount -t tmpfs -o mode=755 tmpfs {root}/dev
mkdir {root}/dev/pts {root}/dev/shm
mount -t devpts -o newinstance,ptmxmode=666 devpts {root}/dev/pts
ln -s pts/ptmx {root}/dev/ptmx
ln -s /proc/self/fd {root}/dev/fd
for node in null:3 zero:5 full:7 random:8 urandom:9; do mknod -m 666 {root}/dev/${{node%:*}} c 1 ${{node#*:}}; done
mknod -m 666 {root}/dev/tty c 5 0
mount -t cgroup2 cgroup2 {root}/sys/fs/cgroup
ip link set lo up
ip link add port0 type veth peer name port1
ip addr add 10.99.0.1/24 dev port0
ip link set port0 up
ip link set port1 arp off up
cd {root}
mkdir -p old
pivot_root . old
umount -l /old
exec /usr/lib/systemd/systemd --log-target=console --show-status=0 >/run/boot.log 2>&1
"""


def base_tree(suite: str = "trixie") -> Path:
    """Return a bootstrapped tree of Debian `suite` that nobody writes to; made once (a minute), then cached."""
    name = hashlib.sha256(repr((suite, INCLUDED)).encode()).hexdigest()[:12]
    tree = cache_folder() / f"machine-{suite}-{name}"
    if tree.exists():
        return tree
    cache_folder().mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(prefix=f"making-machine-{suite}-", dir=cache_folder()))
    try:
        subprocess.run(
            ["debootstrap", "--variant=minbase", f"--keyring={KEYRING}", f"--include={','.join(INCLUDED)}",
             suite, str(making), mirror_uri()],
            check=True, timeout=BOOTSTRAP_S_MAX, capture_output=True,
        )  # fmt: skip
        (making / "etc/machine-id").write_text("")
        (making / "etc/hostname").write_text("machine1\n")
        making.chmod(0o755)
        making.rename(tree)
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise
    return tree


class Machine:
    """A running one."""

    def __init__(self, first: "subprocess.Popen[bytes]", pid: int, root: Path) -> None:
        self._first = first
        self._pid = pid
        self.root = root  # seen from outside

    def run(self, *argv: str, check: bool = True, timeout_s: float = COMMAND_S_MAX) -> str:
        """Run a command in it; return its output, both streams."""
        done = subprocess.run(
            ["nsenter", "-t", str(self._pid), "-m", "-p", "-n", "-u", "-i", "-C", "-r", "-w", "--", *argv],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout_s, check=False,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"},
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{argv}: {done.stdout}"
        return done.stdout

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file in it."""
        subprocess.run(
            ["nsenter", "-t", str(self._pid), "-m", "-r", "--", "/bin/sh", "-c", f"cat >{path}; chmod {mode:o} {path}"],
            input=text.encode(), check=True, timeout=COMMAND_S_MAX,
        )  # fmt: skip

    def put(self, source: Path, path: str) -> None:
        """Copy a file into it."""
        subprocess.run(
            ["nsenter", "-t", str(self._pid), "-m", "-r", "--", "/bin/sh", "-c", f"cat >{path}"],
            input=source.read_bytes(), check=True, timeout=COMMAND_S_MAX,
        )  # fmt: skip


@contextmanager
def running_machine(tree: Path, folder: Path) -> Iterator[Machine]:
    """Boot a machine from `tree`, which stays as it is; what it writes goes below `folder`, and ends with it."""
    root, work = folder / "root", folder / "work"
    for made in (root, work / "upper", work / "work"):
        made.mkdir(parents=True)
    group = Path("/sys/fs/cgroup") / (CGROUP2 if Path("/sys/fs/cgroup", CGROUP2).exists() else "") / f"cg-{folder.name}"
    group.mkdir()
    with tempfile.TemporaryFile() as said:
        first = subprocess.Popen(
            ["/bin/sh", "-c", f'echo $$ >{group}/cgroup.procs && exec unshare --fork --pid --mount --uts --ipc --net '
             f'--cgroup --kill-child=KILL /bin/sh -c "$0"', BOOT.format(lower=tree, work=work, root=root)],
            env={"PATH": os.environ["PATH"], "container": "tests"}, stdin=subprocess.DEVNULL, stdout=said, stderr=said,
        )  # fmt: skip
        try:
            yield _booted(first, root, said)
        finally:
            first.send_signal(signal.SIGKILL)
            first.wait(10)
            _remove_group(group)


def _called(pid: str) -> str:
    """Return a process's name; none when it has ended in the meantime."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _booted(first: "subprocess.Popen[bytes]", root: Path, said) -> Machine:
    """Wait until its systemd has started what it starts."""
    until = time.monotonic() + BOOT_S_MAX
    state = ""
    while time.monotonic() < until:
        time.sleep(0.2)
        children = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
        if children and _called(children[0]) == "systemd":
            machine = Machine(first, int(children[0]), root)
            state = machine.run("systemctl", "is-system-running", check=False).strip()
            if state in ("running", "degraded"):
                return machine
        assert first.poll() is None, f"the machine has ended: {_read(said)}"
    raise AssertionError(f"the machine is not up after {BOOT_S_MAX} s ({state}): {_read(said)}")


def _read(said) -> str:
    said.seek(0)
    return said.read().decode(errors="replace")[-2000:]


def _remove_group(group: Path) -> None:
    for _ in range(50):
        below = sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True)
        try:
            for path in [*below, group]:
                path.rmdir()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError(f"the control group {group} can't be removed: something still runs in it")
