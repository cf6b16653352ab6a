"""What is written for a lab before its hosts boot, and never after: their files, their keys, the gateway's code."""

import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from gateway.lab import cluster, condor, network, rootfs
from gateway.lab.host import HostDisk
from gateway.lab.topology import USERS, Host, Kind, System, Topology

Files = Mapping[str, Mapping[str, str]]  # host -> path on it -> text


def runs_gateway(topology: Topology, host: Host) -> bool:
    """Whether the gateway's daemon runs on this host."""
    return topology.system is System.OURS and host.kind in (Kind.GATEWAY, Kind.MANAGER)


def write(topology: Topology, disk_of: Callable[[str], HostDisk], files: Files) -> None:
    """Write every host's files, `files` last. The keys are made here, and are nowhere but on the lab's disks."""
    signing_key = condor.signing_key_file(secrets.token_bytes(32))
    cluster_key = cluster.key_file(secrets.token_bytes(32)).encode()
    hosts = cluster.hosts_file(topology).encode()
    others = {user: number for user, number in USERS.items() if user != rootfs.USER}
    gateway_config = cluster.gateway_config(topology).encode()
    for host in topology.hosts:
        disk = disk_of(host.name)
        disk.place("/etc/hosts", hosts)
        disk.place("/etc/hostname", f"{host.name}\n".encode())
        if host.kind in (Kind.SUBMIT, Kind.EXECUTE):
            _add_users(disk, others)
        if host.kind is not Kind.GATEWAY:
            disk.place(condor.LAB_FILE, condor.lab_config(topology, host).encode())
            disk.place(condor.POOL_FILE, condor.pool_config(topology, host).encode())
            disk.place(condor.SIGNING_KEY_FILE, signing_key, 0o600)
        if runs_gateway(topology, host):
            disk.place(cluster.CONFIG_FILE, gateway_config)
            disk.place(cluster.KEY_FILE, cluster_key, 0o600)
        for path, text in files.get(host.name, {}).items():
            disk.place(path, text.encode())


def _add_users(disk: HostDisk, users: Mapping[str, int]) -> None:
    for path, line in (("etc/passwd", "{0}:x:{1}:{1}:a user:/home/{0}:/bin/bash\n"), ("etc/group", "{0}:x:{1}:\n")):
        added = "".join(line.format(user, number) for user, number in users.items())
        disk.place(path, (disk.tree / path).read_bytes() + added.encode())
    for user, number in users.items():
        disk.home(user, number)


def copy_gateway(folder: Path) -> None:
    """Copy this package: an edit while a lab is up would otherwise reach half of its hosts."""
    source = Path(__file__).parents[1]
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("__pycache__"))


async def compile_gateway(folder: Path, tree: Path) -> None:
    """Compile the copy by the hosts' own Python, in a mount namespace that lasts as long as the command."""
    inside = f"{rootfs.LIBRARY}/gateway"
    script = 'mount --bind "$1" "$2$3" && exec chroot "$2" python3 -m compileall -q "$3"'
    shell = ["sh", "-c", script, "sh", str(folder), str(tree), inside]
    await network.command(["unshare", "--mount", "--propagation=private", *shell], what="compiling the gateway")
