"""What the host itself says: kernel, sysctls, interfaces, firewall, clock, limits. Synchronous; tools have deadlines.

Rule: what can't be had is left out, and never ends the rest.
"""

import contextlib
import ctypes
import json
import os
import re
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from gateway.doctor.facts import Clock, Device, DeviceAddress, StateFolder
from gateway.kernel.netlink import KernelRefused
from gateway.kernel.sysctl import read_sysctl

TOOL_S_MAX: Final = 5.0
OUTPUT_BYTES_MAX: Final = 32 << 20  # the rules of a host with thousands of containers
_TIME_ERROR: Final = 5  # adjtimex(2): the clock is not synchronised
_TIMEX_BYTES: Final = 512  # struct timex is 208

# Settings for the whole host, and those of each interface.
HOST_SYSCTLS: Final = (
    "net/ipv4/ip_forward",
    "net/ipv4/ip_nonlocal_bind",
    "net/ipv6/ip_nonlocal_bind",
    "net/netfilter/nf_conntrack_max",
    "net/netfilter/nf_conntrack_count",
    "net/core/somaxconn",
    "kernel/sched_rt_runtime_us",
    "fs/nr_open",
)
DEVICE_SYSCTLS: Final = {
    "ipv4": ("arp_ignore", "arp_announce", "rp_filter", "promote_secondaries", "forwarding"),
    "ipv6": ("disable_ipv6", "accept_dad", "forwarding"),
}


def tool(argv: Sequence[str], wait_s: float = TOOL_S_MAX) -> tuple[str | None, str]:
    """Return what a program prints, and ""; or None and why it printed nothing of use."""
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=wait_s, check=False)
    except FileNotFoundError:
        return None, f"'{argv[0]}' is not installed"
    except subprocess.TimeoutExpired:
        return None, f"'{argv[0]}' gave no answer within {wait_s:g} s"
    except OSError as error:
        return None, f"'{argv[0]}' can't be run: {error.strerror}"
    if done.returncode != 0:
        said = " ".join(done.stderr.decode(errors="replace").split())[:200]
        return None, f"'{' '.join(argv)}' failed: {said or f'exit status {done.returncode}'}"
    return done.stdout[:OUTPUT_BYTES_MAX].decode(errors="replace"), ""


def kernel_version() -> tuple[int, int] | None:
    """Return the first two numbers of the kernel's version."""
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (int(found[1]), int(found[2])) if found else None


def clock() -> Clock:
    """Return the clock, and whether somebody keeps it."""
    with contextlib.suppress(OSError, AttributeError):
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))  # modes 0: asks only
        if state >= 0:
            return Clock(unix_s=time.time(), synchronised=state != _TIME_ERROR)
    return Clock(unix_s=time.time())


def sysctls(devices: Iterable[str]) -> dict[str, str]:
    """Return the settings that matter, those of each interface too."""
    names = list(HOST_SYSCTLS)
    for family, settings in DEVICE_SYSCTLS.items():
        names += [f"net/{family}/conf/{scope}/{name}" for scope in ("all", *devices) for name in settings]
    found = {}
    for name in names:
        with contextlib.suppress(KernelRefused):
            found[name] = read_sysctl(name)
    return found


def sysctls_fixed() -> bool:
    """Return whether /proc/sys is read-only here."""
    with contextlib.suppress(OSError):
        return bool(os.statvfs("/proc/sys").f_flag & os.ST_RDONLY)
    return False


def devices() -> dict[str, Device] | None:
    """Return the host's interfaces; None where iproute2 does not tell."""
    text, _ = tool(["ip", "-json", "address", "show"])
    return parse_devices(text) if text is not None else None


def parse_devices(text: str) -> dict[str, Device] | None:
    """Return the interfaces that `ip -json address show` lists."""
    try:
        listed = json.loads(text)
    except ValueError:
        return None
    found = {}
    for one in listed:
        flags = set(one.get("flags", ()))
        addresses = tuple(
            DeviceAddress(
                ip=address["local"],
                prefix_length=int(address.get("prefixlen", 32)),
                tentative=bool(address.get("tentative")),
                dad_failed=bool(address.get("dadfailed")),
            )
            for address in one.get("addr_info", ())
            if "local" in address
        )
        found[one["ifname"]] = Device(
            name=one["ifname"],
            up="UP" in flags,
            carrier="NO-CARRIER" not in flags,
            loopback="LOOPBACK" in flags,
            addresses=addresses,
        )
    return found


def ruleset() -> tuple[tuple[Mapping[str, Any], ...] | None, str]:
    """Return the firewall's rules as nft has them, and ""; or None and why not."""
    text, why = tool(["nft", "-j", "list", "ruleset"])
    if text is None:
        return None, why
    try:
        return tuple(json.loads(text)["nftables"]), ""
    except (ValueError, KeyError, TypeError):
        return None, "what 'nft -j' prints can't be read"


def legacy_tables() -> tuple[str, ...]:
    """Return the tables of iptables-legacy that this network namespace has."""
    found: set[str] = set()
    for name in ("ip_tables_names", "ip6_tables_names"):
        with contextlib.suppress(OSError):
            found |= set(Path("/proc/net", name).read_text().split())
    return tuple(sorted(found))


def realtime() -> str:
    """Return why this process may not run in real time; "" where it may. Tried, and taken back."""
    try:
        before = os.sched_getscheduler(0)
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        os.sched_setscheduler(0, before, os.sched_param(0))
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return ""


def descriptors(pid: int | None) -> int | None:
    """Return the hard limit on open files of a process, or of ours."""
    path = Path(f"/proc/{pid}/limits" if pid else "/proc/self/limits")
    with contextlib.suppress(OSError):
        found = re.search(r"^Max open files\s+\S+\s+(\d+)", path.read_text(), re.MULTILINE)
        return int(found[1]) if found else None
    return None


def conntrack(settings: Mapping[str, str]) -> tuple[int, int] | None:
    """Return how many flows the kernel tracks, and how many it may."""
    try:
        return int(settings["net/netfilter/nf_conntrack_count"]), int(settings["net/netfilter/nf_conntrack_max"])
    except (KeyError, ValueError):
        return None


def state_folder(path: str) -> StateFolder:
    """Return what is known of the folder of votes, or of the one above it that exists."""
    folder = Path(path)
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = 0
    with contextlib.suppress(OSError):
        seen = os.statvfs(folder)
        free = seen.f_bavail * seen.f_frsize
    return StateFolder(exists=Path(path).is_dir(), file_system=_file_system(folder), free_bytes=free)


def _file_system(folder: Path) -> str:
    """Return the type of the file system of a folder: that of the last mount at or above it."""
    best, kind = "", ""
    with contextlib.suppress(OSError):
        here = str(folder.resolve())
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            before, _, after = line.partition(" - ")
            mount = before.split()[4].replace("\\040", " ")
            if (here == mount or here.startswith(mount.rstrip("/") + "/")) and len(mount) >= len(best):
                best, kind = mount, after.split()[0]
    return kind
