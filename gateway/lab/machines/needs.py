"""What the lab of virtual machines needs of the machine it runs on, and how that is installed: Debian packages.

Nothing that is installed is started behind anybody's back where there is no systemd to look after it.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from gateway.lab.errors import LabError
from gateway.lab.machines.running import Progress, run

# A command or file -> the package that it comes with.
NEEDS = {
    "vagrant": "vagrant",
    "/usr/share/vagrant-plugins/plugins.d/vagrant-libvirt.json": "vagrant-libvirt",
    "libvirtd": "libvirt-daemon-system",
    "virsh": "libvirt-clients",
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "dnsmasq": "dnsmasq-base",
    "iptables": "iptables",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "ip": "iproute2",
    "mke2fs": "e2fsprogs",
}
VALIDATION = ("vagrant", "/usr/share/vagrant-plugins/plugins.d/vagrant-libvirt.json")  # all that a test needs

POLICY = Path("/usr/sbin/policy-rc.d")
INSTALL_S_MAX = 900


def missing(needs: tuple[str, ...] = tuple(NEEDS)) -> list[str]:
    """The packages that lack, in alphabetical order."""
    return sorted({
        NEEDS[name] for name in needs if not (Path(name).exists() if name[0] == "/" else shutil.which(name))
    })  # fmt: skip


async def install_missing(progress: Progress, needs: tuple[str, ...] = tuple(NEEDS)) -> None:
    """Install what lacks.

    Raises:
        LabError: something does, and this is not root on Debian, or a package can't be had.
    """
    packages = missing(needs)
    if not packages:
        return
    asking = f"the lab of virtual machines needs these packages: {' '.join(packages)}"
    if shutil.which("apt-get") is None:
        raise LabError(f"{asking}; this is not a Debian machine, so install what gives them here")
    if os.geteuid() != 0:
        raise LabError(f"{asking}; run this as root, or 'apt-get install {' '.join(packages)}' before it")
    progress(f"installing {' '.join(packages)}")
    environment = {"DEBIAN_FRONTEND": "noninteractive"}
    what = "installing the packages of the lab"
    with _nothing_started():
        for argv in (["update"], ["-y", "--no-install-recommends", "install", *packages]):
            # An interrupt waits: packages that are half installed are worse than a minute more.
            with trio.CancelScope(shield=True):
                await run(
                    ["apt-get", "-qq", *argv], what=what, timeout_s=INSTALL_S_MAX, environment=environment, log="apt"
                )


# Known by its text: one that a killed run has left is taken away by the next.
POLICY_TEXT = "#!/bin/sh\n# condor-gateway: while the packages of its lab are installed\nexit 101\n"


@contextmanager
def _nothing_started() -> Iterator[None]:
    """Keep Debian's packages from starting daemons on a machine without systemd; what forbids it already stays."""
    if has_systemd() or (POLICY.exists() and POLICY.read_text() != POLICY_TEXT):
        yield
        return
    POLICY.write_text(POLICY_TEXT)
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink(missing_ok=True)


def has_systemd() -> bool:
    """Whether systemd is this machine's first process (sd_booted(3))."""
    return Path("/run/systemd/system").is_dir()


def usable_kvm() -> bool:
    """Whether this process may open the KVM device, which says nothing of whether guests live in it."""
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True


async def libvirt_answers(uri: str) -> bool:
    """Whether a libvirtd of the machine's own lets us in."""
    if shutil.which("virsh") is None:
        return False
    try:
        await run(["virsh", "-c", uri, "version"], what="asking libvirtd", timeout_s=30)
    except LabError:
        return False
    return True
