"""The end of a lab: its processes, namespaces, mounts and folders, found by name and not by what a file remembers.

So it works after a crash, on a half-built lab, and twice.
"""

import signal
import subprocess
from pathlib import Path

import trio

from gateway.lab import process
from gateway.lab.errors import LabError
from gateway.lab.network import NAMESPACES, command
from gateway.lab.topology import lab_of_namespace

STATE = Path("/run/condor-gateway-lab")
END_S_MAX = 20  # for every process to go: the kernel takes a namespace down one process after another


def lab_folder(name: str) -> Path:
    """Where everything of a lab is on the machine: one tmpfs."""
    return STATE / name


def namespaces_of(name: str) -> list[Path]:
    """The network namespaces of a lab that exist."""
    if not NAMESPACES.is_dir():
        return []
    return sorted(path for path in NAMESPACES.iterdir() if lab_of_namespace(path.name) == name)


def mounts_below(folder: Path) -> list[Path]:
    """What is mounted at or below `folder`, innermost first."""
    points = [Path(line.split()[4]) for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return sorted((point for point in points if point.is_relative_to(folder)), key=lambda p: -len(p.parts))


def processes_of(name: str) -> list[process.Process]:
    """Every process whose network is the lab's."""
    keys = {key for path in namespaces_of(name) if (key := process.namespace_key(path))}
    return [found for found, _ in process.in_namespaces("net", keys)] if keys else []


def exists(name: str) -> bool:
    """Whether anything of a lab is there, be it whole or left over."""
    folder = lab_folder(name)
    return bool(namespaces_of(name) or mounts_below(folder) or folder.exists())


def names() -> list[str]:
    """The labs of which anything is there."""
    found = {path.name for path in STATE.iterdir()} if STATE.is_dir() else set()
    if NAMESPACES.is_dir():
        found |= {name for path in NAMESPACES.iterdir() if (name := lab_of_namespace(path.name))}
    return sorted(found)


async def remove(name: str) -> bool:
    """End every process of the lab and take away everything of it; False: there was nothing.

    Raises:
        LabError: something would not go within `END_S_MAX`; running it again is safe.
    """
    if not exists(name):
        return False
    with trio.move_on_after(END_S_MAX):
        # More than once: a process may have been forked while the list was made.
        while found := await trio.to_thread.run_sync(processes_of, name):
            for one in found:
                process.send(one, signal.SIGKILL)
            await trio.sleep(0.02)
    if left := processes_of(name):
        raise LabError(f"{len(left)} processes of lab {name!r} did not end within {END_S_MAX} s: try again")
    if paths := namespaces_of(name):
        lines = "".join(f"netns del {path.name}\n" for path in paths)
        await command(["ip", "-batch", "-"], input_text=lines, what="removing network namespaces")
    folder = lab_folder(name)
    for point in mounts_below(folder):
        await _unmount(point)
    await trio.to_thread.run_sync(_remove_folder, folder)
    return True


async def _unmount(point: Path) -> None:
    done: subprocess.CompletedProcess[bytes] | None = None
    for _ in range(50):  # the last mount of a dead namespace goes a moment after its last process
        done = await trio.run_process(["umount", str(point)], capture_stderr=True, check=False)
        if done.returncode == 0:
            return
        await trio.sleep(0.1)
    said = done.stderr.decode(errors="replace").strip() if done else ""
    raise LabError(f"{str(point)!r} is in use: close what reads the lab's files and try again ({said})")


def _remove_folder(folder: Path) -> None:
    if folder.exists():
        folder.rmdir()
    if STATE.exists() and not any(STATE.iterdir()):
        STATE.rmdir()
