"""The libvirtd that runs the virtual machines: the machine's own, or one in a network namespace that is made for it.

In the second case nothing of it touches the machine's network, and everything of it is found again by the namespace's
name: whatever runs in there, and one folder.
"""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import msgspec
import trio

from gateway.lab import process
from gateway.lab.errors import LabError
from gateway.lab.machines import needs
from gateway.lab.machines.inventory import FOLDER, PREFIX
from gateway.lab.machines.running import LOGS, Progress, run
from gateway.lab.network import NAMESPACES
from gateway.lab.teardown import mounts_below

SYSTEM_URI = "qemu:///system"
NAMESPACE = NAMESPACES / PREFIX
SOCKETS = Path("/run") / PREFIX  # a socket's path has at most 107 characters: a checkout may lie deeper
STATE = FOLDER / "libvirt"
# Where a libvirtd keeps its things, and what of our folders it gets there in a mount namespace of its own.
PLACES = {
    "/etc/libvirt": STATE / "etc",
    "/var/lib/libvirt": STATE / "lib",
    "/var/cache/libvirt": STATE / "cache",
    "/var/log/libvirt": STATE / "log",
    "/run/libvirt": SOCKETS,
}

START_S_MAX = 30
END_S_MAX = 20
COMMAND_S_MAX = 60

QEMU_CONF = """\
user = "root"
group = "root"
dynamic_ownership = 1
remember_owner = 0
security_driver = "none"
# No daemon of control groups, of namespaces or of logs is on such a machine.
cgroup_controllers = [ ]
namespaces = [ ]
stdio_handler = "file"
"""

LIBVIRTD_CONF = """\
listen_tls = 0
listen_tcp = 0
auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_rw_perms = "0700"
log_outputs = "3:stderr"
"""

# The view of the file system that libvirtd has: its folders are ours, and /sys shows the namespace's interfaces.
START = """\
set -e
mount -t sysfs sysfs /sys
while [ "$1" != -- ]; do mount --bind "$2" "$1"; shift 2; done
shift
exec "$@"
"""


class Hypervisor(msgspec.Struct, frozen=True, kw_only=True):
    """One that runs. `entering` is what must stand before a command that shall see its networks."""

    uri: str
    entering: tuple[str, ...]
    own: bool  # started by us

    @property
    def environment(self) -> dict[str, str]:
        """What virsh must find in its environment."""
        return {"LIBVIRT_DEFAULT_URI": self.uri}


def _own() -> Hypervisor:
    return Hypervisor(
        uri=f"{SYSTEM_URI}?socket={SOCKETS}/libvirt-sock", entering=("nsenter", f"--net={NAMESPACE}", "--"), own=True
    )


async def start(progress: Progress) -> Hypervisor:
    """Return the machine's own libvirtd where it has systemd, else one of ours, which is started if need be.

    Raises:
        LabError: neither can be had.
    """
    if needs.has_systemd():
        return await _of_the_machine()
    own = _own()
    if await answers(own):
        return own
    if os.geteuid() != 0:
        raise LabError(
            "starting libvirtd needs root, and this machine has no systemd that would run it: run this as root"
        )
    await stop()  # what is left of one that has died
    progress("starting libvirtd in a network namespace of its own")
    _lay_files()
    await run(["ip", "netns", "add", PREFIX], what="making the network namespace", timeout_s=COMMAND_S_MAX)
    await run([*own.entering, "ip", "link", "set", "lo", "up"], what="its loopback", timeout_s=COMMAND_S_MAX)
    _spawn(own)
    with trio.move_on_after(START_S_MAX):
        while not await answers(own):  # noqa: ASYNC110  it has no event to wait for
            await trio.sleep(0.2)
        return own
    raise LabError(f"libvirtd does not answer after {START_S_MAX} s: {LOGS / 'libvirtd.log'} says why")


async def _of_the_machine() -> Hypervisor:
    system = Hypervisor(uri=SYSTEM_URI, entering=(), own=False)
    if not await answers(system) and os.geteuid() == 0:
        await run(["systemctl", "start", "libvirtd"], what="starting libvirtd", timeout_s=COMMAND_S_MAX, check=False)
    if not await answers(system):
        raise LabError(
            "libvirtd does not let this user in: 'systemctl start libvirtd', and be in the group 'libvirt' "
            "('adduser NAME libvirt', then log in again)"
        )
    return system


async def answers(hypervisor: Hypervisor) -> bool:
    """Whether it does."""
    if hypervisor.own and not (SOCKETS / "libvirt-sock").exists():
        return False
    argv = ["virsh", "-c", hypervisor.uri, "version"]
    said = await run(argv, what="asking libvirtd", timeout_s=COMMAND_S_MAX, check=False)
    return "hypervisor" in said.lower()


async def virsh(hypervisor: Hypervisor, *argv: str, check: bool = True, timeout_s: float = COMMAND_S_MAX) -> str:
    """Ask libvirtd for something; return what virsh says.

    Raises:
        LabError: it refuses, where `check` is set.
    """
    what = f"'virsh {' '.join(argv)}'"
    return await run(["virsh", "-q", "-c", hypervisor.uri, *argv], what=what, timeout_s=timeout_s, check=check)


def _lay_files() -> None:
    for folder in PLACES.values():
        folder.mkdir(parents=True, exist_ok=True)
    (STATE / "etc/qemu.conf").write_text(QEMU_CONF)
    (STATE / "etc/libvirtd.conf").write_text(LIBVIRTD_CONF)
    made = [place for place in PLACES if not Path(place).exists()]
    for place in made:
        Path(place).mkdir(parents=True)
    (STATE / "made").write_text("\n".join(made))


def _spawn(own: Hypervisor) -> None:
    """Start libvirtd; it outlives this process, and is found again by its network namespace."""
    binds = [text for place, ours in PLACES.items() for text in (place, str(ours))]
    libvirtd = ["libvirtd", "--config", "/etc/libvirt/libvirtd.conf"]
    argv = [
        *own.entering,
        "unshare",
        "--mount",
        "--propagation=private",
        "sh",
        "-c",
        START,
        "sh",
        *binds,
        "--",
        *libvirtd,
    ]
    LOGS.mkdir(parents=True, exist_ok=True)
    with (LOGS / "libvirtd.log").open("ab") as said:
        subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )  # fmt: skip


def running() -> list[process.Process]:
    """Every process in our network namespace: libvirtd, the virtual machines, and who looks at their networks."""
    key = process.namespace_key(NAMESPACE)
    own = process.namespace_key(Path("/proc/self/ns/net"))
    if key is None or key == own:
        return []
    return [found for found, _ in process.in_namespaces("net", {key})]


async def stop() -> bool:
    """Take our libvirtd away with all that runs under it, whatever state it is in; False: there was nothing of it.

    Raises:
        LabError: something would not end; running it again is safe.
    """
    existed = NAMESPACE.exists() or STATE.exists() or SOCKETS.exists()
    with trio.move_on_after(END_S_MAX):
        # More than once: a process may have been forked while the list was made.
        while found := await trio.to_thread.run_sync(running):
            for one in found:
                process.send(one, signal.SIGKILL)
            await trio.sleep(0.1)
    if left := running():
        raise LabError(f"{len(left)} processes of the virtual machines did not end within {END_S_MAX} s: try again")
    if NAMESPACE.exists():
        await run(["ip", "netns", "del", PREFIX], what="removing the network namespace", timeout_s=COMMAND_S_MAX)
    for point in [*mounts_below(STATE), *mounts_below(SOCKETS)]:
        await run(["umount", str(point)], what="unmounting what libvirtd left", timeout_s=COMMAND_S_MAX)
    _remove_made()
    for folder in (STATE, SOCKETS):
        if folder.exists():
            shutil.rmtree(folder)
    return existed


def _remove_made() -> None:
    """Take folders away that were not there before us, and are empty."""
    made = (STATE / "made").read_text().split() if (STATE / "made").exists() else []
    for place in map(Path, made):
        if place.is_dir() and not any(place.iterdir()):
            place.rmdir()
