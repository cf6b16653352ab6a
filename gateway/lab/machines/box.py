"""A Vagrant box made from Debian packages alone, through this machine's own apt: for sites that can't download one.

Everything is built natively, beside its place, and renamed when complete; the packages' scripts run in namespaces of
their own, without a network. The box boots from the kernel and initrd that lie in it, so it needs no boot loader.
"""

import argparse
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from gateway.lab.errors import LabError
from gateway.lab.machines.running import Progress
from gateway.lab.packages import Archive, mirror_uri, unpack
from gateway.lab.rootfs import USER, USER_ID, cache_folder

SUITE = "trixie"
NAME = "condor-gateway/trixie"  # as Vagrant lists it
RECIPE = 1  # raise it when the building below changes what is built

# The last are what HTCondor, the gateway, Vagrant and whoever looks at the machine need.
PACKAGES = (
    "?essential", "?priority(required)", "apt", "busybox-static", "cpio", "init", "kmod", "linux-image-cloud-amd64",
    "netbase", "systemd", "systemd-sysv", "udev", "condor", "python3", "nftables", "iproute2", "conntrack",
    "openssh-server", "rsync", "sudo", "ca-certificates", "iputils-ping", "iputils-arping", "netcat-openbsd", "procps",
    "tcpdump",
)  # fmt: skip
# dpkg can't run before these are in place; they are unpacked by hand first, and then by dpkg itself.
FIRST = ("base-files", "base-passwd", "?essential", "dpkg", "debconf")

DISK_MB = 3_072  # as the machine sees it; what is not written takes no room
STEP_S_MAX = 600

# Not wanted in a machine that lives for minutes: documentation, and what wakes up by itself.
DPKG = """\
path-exclude=/usr/share/doc/*
path-exclude=/usr/share/man/*
path-exclude=/usr/share/info/*
path-exclude=/usr/share/locale/*
path-exclude=/usr/share/lintian/*
path-exclude=/usr/share/bug/*
path-include=/usr/share/doc/condor-gateway/*
force-unsafe-io
"""
MASKED = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service",
    "fstrim.timer", "logrotate.timer", "man-db.timer", "systemd-networkd-wait-online.service",
    "systemd-tmpfiles-clean.timer", "systemd-hwdb-update.service", "systemd-journal-catalog-update.service",
    "systemd-pstore.service", "systemd-timesyncd.service", "systemd-random-seed.service", "systemd-update-utmp.service",
    "systemd-update-done.service", "systemd-networkd-persistent-storage.service", "systemd-network-generator.service",
    "systemd-udev-load-credentials.service", "systemd-sysusers.service", "systemd-remount-fs.service",
    "systemd-modules-load.service", "systemd-binfmt.service", "systemd-logind.service", "kmod-static-nodes.service",
    "modprobe@configfs.service", "modprobe@drm.service", "modprobe@fuse.service", "ldconfig.service",
    "getty@tty1.service", "getty-static.service", "serial-getty@ttyS0.service", "keyboard-setup.service",
    "console-setup.service",
    "dev-hugepages.mount", "dev-mqueue.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount",
    "sys-kernel-config.mount", "sys-fs-fuse-connections.mount", "tmp.mount", "condor.service",
)  # fmt: skip

# Of the kernel's modules what stands between it and its disk and network. Debian's own initrd starts udev for it, and
# takes ten seconds where a processor is imitated.
MODULES = ("virtio_pci", "virtio_blk", "ext4", "virtio_net", "virtio_rng")
INIT = """\
#!/bin/busybox sh
b=/bin/busybox
$b mount -t devtmpfs dev /dev
$b mount -t proc proc /proc
while read -r module; do $b insmod /lib/$module; done </modules
for word in $($b cat /proc/cmdline); do
    case $word in init=*) init=${word#init=} ;; esac
done
$b umount /proc
$b mount -t ext4 -o noatime /dev/vda /root || exec $b sh
$b mount --move /dev /root/dev
exec $b switch_root /root ${init:-/sbin/init}
"""

MARKER = "condor-gateway-vm: alive"
FILES = {
    "etc/hostname": "debian\n",
    "etc/hosts": "127.0.0.1 localhost\n",
    "etc/fstab": "",  # the initrd mounts the disk as it shall be
    "etc/resolv.conf": "",
    # Provisioning says what the second interface has.
    "etc/systemd/network/10-eth0.network": "[Match]\nName=eth0\n\n[Network]\nDHCP=ipv4\nLinkLocalAddressing=no\n"
    "IPv6AcceptRA=no\n\n[DHCPv4]\nClientIdentifier=mac\nUseDNS=no\nUseNTP=no\nUseHostname=no\n",
    # Machines that live for minutes on a network that nobody else sees: quick to get into.
    "etc/ssh/sshd_config.d/lab.conf": "HostKey /etc/ssh/ssh_host_ed25519_key\nUsePAM no\nUseDNS no\n"
    "PermitRootLogin prohibit-password\nPasswordAuthentication no\n",
    "etc/systemd/journald.conf.d/lab.conf": "[Journal]\nStorage=persistent\nSystemMaxUse=64M\nForwardToConsole=no\n",
    "etc/systemd/system/ssh.service.d/lab.conf": "[Service]\nExecStartPre=\n",
    "etc/condor/config.d/00-lab.config": "# The machine's sysctls are not this program's to set.\n"
    "ENABLE_KERNEL_TUNING = False\n",
    # What a trial boot runs in place of systemd: some seconds of real work, and the word that it waits for.
    "usr/local/sbin/trial": "#!/bin/sh\nmount -t proc proc /proc\n"
    'python3 -c \'import hashlib; hashlib.pbkdf2_hmac("sha256", b"x", b"y", 200000)\' && '
    f"nft --version >/dev/null && echo '{MARKER}' >/dev/ttyS0\nwhile :; do sleep 1; done\n",
}

# In a chroot, in namespaces of its own and without a network. dpkg's order among so many packages is its own affair:
# what one needs of the other is there when they are configured.
CONFIGURE = """\
set -e
export PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 INITRD=No
mount -t proc proc "$1/proc"
mount -t sysfs -o ro sysfs "$1/sys"
mount -t tmpfs tmpfs "$1/run"
mount --bind "$2" "$1/mnt"
mount -o remount,bind,ro "$1/proc/sys" 2>/dev/null || mount --bind -o ro "$1/proc/sys" "$1/proc/sys"
cd "$1"
chroot . sh -ec '
    cd /mnt
    dpkg --force-depends --install $(cat /first)
    dpkg --force-depends --force-confdef --force-confold --unpack $(cat /second)
    dpkg --configure --pending
    systemctl enable systemd-networkd.service ssh.service
    systemctl set-default multi-user.target
    for unit in $(cat /masked); do ln -sf /dev/null /etc/systemd/system/$unit; done
    useradd --uid "$(cat /uid)" --create-home --shell /bin/bash "$(cat /user)"
    rm -f /etc/ssh/ssh_host_*
    ssh-keygen -q -t ed25519 -N "" -f /etc/ssh/ssh_host_ed25519_key
    version=$(ls /lib/modules)
    depmod "$version"
    mkdir -p /initrd/bin /initrd/lib /initrd/dev /initrd/proc /initrd/root
    cp /usr/bin/busybox /initrd/bin
    cp /init-of-initrd /initrd/init
    chmod +x /initrd/init
    for module in $(cat /wanted); do modprobe -S "$version" --show-depends "$module"; done |
        sed -n "s/^insmod //p" | cat -n | sort -uk2 | sort -n | while read -r number path; do
            python3 -c "import lzma, sys; sys.stdout.buffer.write(lzma.open(sys.argv[1]).read())" "$path" \
                >"/initrd/lib/$number.ko"
            echo "$number.ko" >>/initrd/modules
        done
    (cd /initrd && find . | cpio --quiet -o -H newc) >/boot/initrd
    rm -r /initrd
    python3 -m compileall -q -x /test/ /usr/lib/python3*/ || :
'
"""


class Built(msgspec.Struct, frozen=True, kw_only=True):
    """A box that is there. `box` is what Vagrant adds; the others are what it boots, and the tree it was made from."""

    version: str
    box: Path
    image: Path
    kernel: Path
    initrd: Path
    tree: Path


def recipe_hash() -> str:
    """What makes two boxes the same."""
    recipe = [
        RECIPE,
        SUITE,
        PACKAGES,
        FIRST,
        DPKG,
        MASKED,
        FILES,
        MODULES,
        INIT,
        CONFIGURE,
        DISK_MB,
        platform.machine(),
    ]
    return hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]


def _at(folder: Path) -> Built:
    # Vagrant sorts versions by number.
    version = f"13.{int(recipe_hash(), 16)}"
    names = {name: folder / file for name, file in _FILES.items()}
    return Built(version=version, **names)


_FILES = {"box": "condor-gateway.box", "image": "box.img", "kernel": "vmlinuz", "initrd": "initrd.img", "tree": "tree"}


def folder_of_box() -> Path:
    """Where the box is, or will be once it is built."""
    return cache_folder() / f"box-{SUITE}-{recipe_hash()}"


def build(progress: Progress = lambda text: None) -> Built:
    """Return the box, building it first where the cache has none (about a minute, and 2 GB while it lasts).

    Raises:
        LabError: not root, not Debian, no mirror, or a package that can't be had or configured.
    """
    tree = build_tree(progress)
    built = _at(folder_of_box())
    if built.box.exists():
        return built
    with _only_builder(progress):
        if not built.box.exists():
            _remove_stale()
            progress("making the box's disk")
            _build_box(tree, built)
    return built


def _build_box(tree: Path, built: Built) -> None:
    making = Path(tempfile.mkdtemp(prefix="making-box-", dir=cache_folder()))
    try:
        _make_box(tree, _at(making), making)
        for name in ("image", "kernel", "initrd", "box"):  # the box last: it says that all are there
            os.replace(getattr(_at(making), name), getattr(built, name))
    finally:
        shutil.rmtree(making, ignore_errors=True)


def build_tree(progress: Progress = lambda text: None) -> Path:
    """Return the box's root file system as a folder that nobody writes to, building it first if need be.

    Raises:
        LabError: as `build`.
    """
    tree = _at(folder_of_box()).tree
    if tree.exists():
        return tree
    if os.geteuid() != 0:
        raise LabError("building a box needs root, to keep the owners of Debian's files: run this as root")
    with _only_builder(progress):
        if not tree.exists():
            _remove_stale()
            folder_of_box().mkdir(parents=True, exist_ok=True)
            _build_tree(tree, progress)
    return tree


def _build_tree(tree: Path, progress: Progress) -> None:
    making = Path(tempfile.mkdtemp(prefix="making-tree-", dir=cache_folder()))
    try:
        _make_tree(making, progress)
        making.chmod(0o755)
        making.rename(tree)
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise


@contextmanager
def _only_builder(progress: Progress) -> Iterator[None]:
    cache_folder().mkdir(parents=True, exist_ok=True)
    with (cache_folder() / "box.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another builder of the box")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield  # closing the file ends the lock, also when this process is killed


def _remove_stale() -> None:
    """Take away what was half built when its builder died, and boxes of other recipes: each has a gigabyte."""
    for pattern in ("making-tree-*", "making-box-*", f"box-{SUITE}-*"):
        for folder in cache_folder().glob(pattern):
            if folder != folder_of_box():
                shutil.rmtree(folder, ignore_errors=True)


def _make_tree(root: Path, progress: Progress) -> None:
    archive = Archive(SUITE, cache_folder() / f"apt-{SUITE}")
    progress(f"fetching the package lists of Debian {SUITE}")
    archive.refresh()
    progress("fetching the box's packages")
    debs = archive.download(PACKAGES)
    first = archive.download(FIRST)
    for name in ("bin", "sbin", "lib", "lib64"):  # merged /usr, as Debian's installer lays it out
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    progress("unpacking what dpkg itself needs")
    unpack(first, root)
    _lay_before(root, first, [deb for deb in debs if deb not in first])
    progress(f"installing {len(debs)} packages")
    _in_namespaces(CONFIGURE, str(root), str(debs[0].parent))
    _lay_after(root)


def _lay_before(root: Path, first: Sequence[Path], second: Sequence[Path]) -> None:
    for path, text in FILES.items():
        if path.startswith(("etc/condor", "etc/ssh")):
            continue  # after the packages that own the folders
        _write(root / path, text)
    (root / "usr/local/sbin/trial").chmod(0o755)
    for folder in (
        "proc",
        "sys",
        "run",
        "mnt",
        "dev",
        "tmp",
        "etc/dpkg/dpkg.cfg.d",
        "var/lib/dpkg/info",
        "var/lib/dpkg/updates",
    ):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    for name in ("status", "available"):
        (root / "var/lib/dpkg" / name).touch()
    (root / "etc/dpkg/dpkg.cfg.d/lab").write_text(DPKG)
    _write(root / "usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n")
    (root / "usr/sbin/policy-rc.d").chmod(0o755)
    for name, minor in (("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)):
        node = root / "dev" / name
        if not node.exists():
            os.mknod(node, 0o20666, os.makedev(1, minor))
            node.chmod(0o666)
    (root / "first").write_text("\n".join(deb.name for deb in first))
    (root / "second").write_text("\n".join(deb.name for deb in second))
    (root / "masked").write_text("\n".join(MASKED))
    (root / "wanted").write_text("\n".join(MODULES))
    (root / "init-of-initrd").write_text(INIT)
    (root / "user").write_text(USER)
    (root / "uid").write_text(str(USER_ID))


def _lay_after(root: Path) -> None:
    for name in ("first", "second", "masked", "wanted", "init-of-initrd", "user", "uid", "usr/sbin/policy-rc.d"):
        (root / name).unlink()
    for path, text in FILES.items():
        if path.startswith(("etc/condor", "etc/ssh")):
            _write(root / path, text)
    (root / "etc/machine-id").write_text("")  # each machine makes its own
    (root / "etc/apt/sources.list").write_text(f"deb {mirror_uri()} {SUITE} main\n")
    for stale in (*root.glob("var/cache/apt/*.bin"), *root.glob("var/log/*.log"), *root.glob("boot/*.old")):
        stale.unlink()


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def _in_namespaces(script: str, *arguments: str) -> None:
    """Run a script that sees this machine's files and nothing else of it: no network, no processes, no mounts.

    It ends with this process, whatever ends that.
    """
    argv = ["setpriv", "--pdeathsig=KILL", "unshare", "--fork", "--pid", "--mount", "--propagation=private"]
    argv += ["--uts", "--ipc", "--net", "--kill-child=KILL"]
    _step([*argv, "sh", "-c", script, "sh", *arguments], "installing the box's packages")


def _step(argv: Sequence[str], what: str) -> None:
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace", timeout=STEP_S_MAX, check=False,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise LabError(f"{what} needs the command {argv[0]!r}, which this machine lacks") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{what} took longer than {STEP_S_MAX} s") from error
    if done.returncode != 0:
        raise LabError(f"{what} failed: {done.stdout.strip()[-1500:]}")


def _make_box(tree: Path, made: Built, folder: Path) -> None:
    shutil.copy(_only(tree, "boot/vmlinuz-*"), made.kernel)
    shutil.copy(_only(tree, "boot/initrd"), made.initrd)
    raw = folder / "raw"
    with raw.open("wb") as disk:
        disk.truncate(DISK_MB << 20)
    fast = "lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0"
    _step(["mke2fs", "-q", "-t", "ext4", "-m", "0", "-E", fast, "-d", str(tree), str(raw)], "making the box's disk")
    _step(["qemu-img", "convert", "-O", "qcow2", str(raw), str(made.image)], "making the box's disk")
    raw.unlink()
    metadata = {"provider": "libvirt", "format": "qcow2", "virtual_size": DISK_MB // 1024}
    (folder / "metadata.json").write_text(json.dumps(metadata))
    with tarfile.open(made.box, "w") as box:
        for file in (folder / "metadata.json", made.image):
            box.add(file, file.name)


def _only(tree: Path, pattern: str) -> Path:
    found = sorted(tree.glob(pattern))
    if not found:
        raise LabError(f"the box's packages hold no {pattern}: has Debian changed its layout?")
    return found[-1]


def main() -> int:
    """Build the box if need be, and print what Vagrant adds."""
    parser = argparse.ArgumentParser(prog="vagrant/build-box", description=main.__doc__)
    parser.parse_args()
    try:
        print(build(lambda text: print(text, file=sys.stderr)).box)
    except LabError as error:
        print(f"condor-gateway: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
