"""The root file system of a lab's hosts: Debian, HTCondor and the gateway's libraries, built once and cached.

A half-built tree is never used: it is built beside its place and renamed when complete. Nobody writes later.
"""

import argparse
import fcntl
import hashlib
import json
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.lab.errors import LabError
from gateway.lab.libraries import dependencies, install_libraries
from gateway.lab.packages import Archive, Progress, unpack

SUITES = ("trixie", "sid")
RECIPE = 2  # raise it when the building below changes what is built

# What a host of a pool needs. Debian's essential packages are named because nothing pulls them in by itself.
PACKAGES = (
    "base-files", "base-passwd", "bash", "coreutils", "dash", "debianutils", "diffutils", "findutils", "gawk",
    "grep", "gzip", "hostname", "libc-bin", "login", "ncurses-base", "passwd", "perl-base", "procps", "sed", "tar",
    "util-linux", "condor", "python3", "iproute2", "iputils-ping", "iputils-arping", "nftables", "tcpdump",
    "netcat-openbsd", "ca-certificates", "mount", "conntrack",
)  # fmt: skip

LIBRARY = "/opt/condor-gateway/lib"  # the gateway's dependencies, and, bound into each host, the gateway itself
USER, USER_ID = "physicist", 1000  # who submits jobs
CONDOR_ID = 100

LAUNCHER = f"""#!/bin/sh
export PYTHONPATH={LIBRARY}
exec /usr/bin/python3 -P -m gateway "$@"
"""

# Debian's packages ask this before they start a daemon. Nothing in the lab is started behind its back.
POLICY = "#!/bin/sh\nexit 101\n"

FOLDERS = (  # path, owner, mode: what HTCondor's package makes in scripts that are not run here
    ("var/lib/condor", CONDOR_ID, 0o755),
    ("var/spool/condor", CONDOR_ID, 0o755),
    ("var/lib/condor/cred_dir", 0, 0o700),
    ("var/lib/condor/execute", CONDOR_ID, 0o755),
    ("var/lib/condor/oauth_credentials", 0, 0o2770),
    ("var/lib/condor/krb_credentials", 0, 0o2770),
    ("var/log/condor", CONDOR_ID, 0o755),
    ("var/lock/condor", CONDOR_ID, 0o755),
    ("run/condor", CONDOR_ID, 0o755),
    ("etc/condor/config.d", 0, 0o755),
    ("etc/condor/passwords.d", 0, 0o700),
    ("etc/condor/tokens.d", 0, 0o700),
    ("etc/condor-gateway", 0, 0o755),
    ("var/lib/condor-gateway", 0, 0o700),
    ("tmp", 0, 0o1777),
    ("var/tmp", 0, 0o1777),
    ("root", 0, 0o700),
    (f"home/{USER}", USER_ID, 0o755),
    (LIBRARY.lstrip("/") + "/gateway", 0, 0o755),
    ("proc", 0, 0o555),
    ("sys", 0, 0o555),
    ("dev/shm", 0, 0o1777),
    ("dev/pts", 0, 0o755),
)

DEVICES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))


def cache_folder() -> Path:
    """Where built trees and downloaded packages are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "condor-gateway"


def recipe_hash(suite: str) -> str:
    """What makes two trees the same: packages, libraries, architecture, and the steps of this module."""
    recipe = [RECIPE, suite, PACKAGES, dependencies(), platform.machine(), FOLDERS, LAUNCHER]
    return hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]


def tree_path(suite: str) -> Path:
    """Where the tree of `suite` is, or will be once `build` has made it."""
    return cache_folder() / f"rootfs-{suite}-{recipe_hash(suite)}"


@contextmanager
def _only_builder(folder: Path, progress: Progress) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "rootfs.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another builder of the root file system")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield  # closing the file ends the lock, also when this process is killed


def build(suite: str = "trixie", progress: Progress = lambda text: None) -> Path:
    """Return the tree of `suite`, building it first where the cache has none (about 30 s and 300 MiB).

    Raises:
        LabError: not root, not Debian, no mirror, a package that cannot be had, an unknown suite.
    """
    if suite not in SUITES:
        raise LabError(f"no HTCondor in Debian {suite!r}: use one of {', '.join(SUITES)}")
    tree = tree_path(suite)
    if tree.exists():
        return tree
    if os.geteuid() != 0:
        raise LabError("building HTCondor's root file system needs root: run this as root")
    cache = cache_folder()
    with _only_builder(cache, progress):
        if tree.exists():
            return tree
        for stale in cache.glob(f"building-{suite}-*"):  # we hold the lock: nobody builds there any more
            shutil.rmtree(stale)
        root = Path(tempfile.mkdtemp(prefix=f"building-{suite}-", dir=cache))
        try:
            _build_into(root, suite, cache, progress)
            root.chmod(0o755)
            root.rename(tree)
        except BaseException:
            shutil.rmtree(root, ignore_errors=True)
            raise
    progress(f"root file system of Debian {suite} is ready")
    return tree


def _build_into(root: Path, suite: str, cache: Path, progress: Progress) -> None:
    archive = Archive(suite, cache / f"apt-{suite}")
    progress(f"fetching the package lists of Debian {suite}")
    archive.refresh()
    progress(f"fetching HTCondor and {len(PACKAGES) - 1} other packages with what they need")
    debs = archive.download(PACKAGES)
    progress(f"unpacking {len(debs)} packages")
    for name in ("bin", "sbin", "lib", "lib64"):  # merged /usr, as Debian's installer lays it out
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    unpack(debs, root)
    _make_accounts(root)
    _make_folders(root)
    _make_programs(root)
    progress("fetching the gateway's Python libraries")
    install_libraries(root / LIBRARY.lstrip("/"), _python_version(root))
    _make_linker_cache(root)
    _compile(root)


def _make_accounts(root: Path) -> None:
    share = root / "usr/share/base-passwd"
    passwd = (share / "passwd.master").read_text()
    passwd = passwd.replace("root:*:", "root:x:", 1)
    passwd += f"condor:x:{CONDOR_ID}:{CONDOR_ID}:HTCondor:/var/lib/condor:/usr/sbin/nologin\n"
    passwd += f"{USER}:x:{USER_ID}:{USER_ID}:a user:/home/{USER}:/bin/bash\n"
    (root / "etc/passwd").write_text(passwd)
    group = (share / "group.master").read_text()
    (root / "etc/group").write_text(f"{group}condor:x:{CONDOR_ID}:\n{USER}:x:{USER_ID}:\n")
    (root / "etc/nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files\nservices: files\n")


def _make_folders(root: Path) -> None:
    if not (root / "var/lock").exists():
        (root / "run/lock").mkdir(parents=True, exist_ok=True)
        (root / "var/lock").symlink_to("/run/lock")
    for path, owner, mode in FOLDERS:
        # A link of the tree (/var/run -> /run) must not be followed to the machine's own folders.
        folder = root / path.replace("var/lock/", "run/lock/")
        folder.mkdir(parents=True, exist_ok=True)
        os.chown(folder, owner, owner)
        folder.chmod(mode)
    for name, major, minor in DEVICES:
        node = root / "dev" / name
        os.mknod(node, stat.S_IFCHR | 0o666, os.makedev(major, minor))
        node.chmod(0o666)
    (root / "dev/ptmx").symlink_to("pts/ptmx")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        (root / "dev" / name).symlink_to(f"/proc/self/fd/{number}")
    (root / "dev/fd").symlink_to("/proc/self/fd")


def _make_programs(root: Path) -> None:
    programs = {"usr/sbin/policy-rc.d": POLICY, "usr/bin/condor-gateway": LAUNCHER}
    # HTCondor's script that writes sysctls of the real machine: never called by our configuration, and empty.
    programs |= {str(path.relative_to(root)): "#!/bin/sh\nexit 0\n" for path in root.glob("usr/**/linux_kernel_tuning")}
    for name, text in programs.items():
        (root / name).write_text(text)
        (root / name).chmod(0o755)
    if not (root / "usr/bin/awk").exists():
        (root / "usr/bin/awk").symlink_to("gawk")
    config = root / "etc/condor/condor_config"
    if not config.exists():
        raise LabError("the package 'condor' holds no etc/condor/condor_config: has the suite changed its layout?")


def _python_version(root: Path) -> str:
    """The version of the tree's python3, as "3.13"."""
    return os.readlink(root / "usr/bin/python3").removeprefix("python")


def _make_linker_cache(root: Path) -> None:
    done = subprocess.run(["/sbin/ldconfig", "-r", str(root)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"ldconfig could not make the linker cache: {done.stderr.strip()}")


def _compile(root: Path) -> None:
    # Debian's packages do this in scripts that are not run here; without it every start of a daemon compiles anew.
    compiler = ["/usr/bin/python3", "-m", "compileall", "-q", "-x", "/test/|/tests/|lib2to3", LIBRARY]
    compiler += [f"/usr/lib/python{_python_version(root)}", "/usr/lib/python3"]
    subprocess.run(["chroot", str(root), *compiler], capture_output=True, timeout=300, check=False)


def main() -> int:
    """Build if need be, and print the path of the tree."""
    parser = argparse.ArgumentParser(prog="python -m gateway.lab.rootfs", description=main.__doc__)
    parser.add_argument("--suite", choices=SUITES, default="trixie")
    arguments = parser.parse_args()
    try:
        print(build(arguments.suite, lambda text: print(text, file=sys.stderr)))
    except LabError as error:
        print(f"condor-gateway: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
