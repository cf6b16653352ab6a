"""keepalived, Debian's package, as the thing to compare with: fetched through the machine's apt, never installed.

It is configured as condor-gateway is: unicast to the other gateway, and a master that comes back takes nothing
(`state BACKUP`, `nopreempt`). An advertisement is its heartbeat; all else is at its default.
"""

import os
import shutil
import subprocess
from pathlib import Path

from gateway.lab import rootfs
from gateway.lab.errors import LabError
from gateway.lab.packages import DOWNLOAD_S_MAX, QUERY_S_MAX, _run
from gateway.lab.segment import DEVICE, GATEWAYS, Host
from gateway.lab.topology import VIRTUAL_ADDRESS

PACKAGE = "keepalived"
PRIORITIES = {"gw1": 200, "gw2": 100}
ADVERT_MS_MIN = 10  # VRRP version 3 counts in hundredths of a second (RFC 9568 §5.2.7)

_CONFIG = """\
global_defs {{
    router_id {me}
    vrrp_version 3
}}
vrrp_instance pool-vip {{
    state BACKUP
    nopreempt
    interface {device}
    virtual_router_id 51
    priority {priority}
    advert_int {advert_s:g}
    unicast_src_ip {own}
    unicast_peer {{
        {other}
    }}
    virtual_ipaddress {{
        {address}/32 dev {device}
    }}
}}
"""


def config(me: str, advert_ms: int) -> str:
    """Return the configuration of one gateway.

    Raises:
        LabError: keepalived can't send as often.
    """
    if advert_ms < ADVERT_MS_MIN or advert_ms % ADVERT_MS_MIN:
        raise LabError(f"keepalived counts in hundredths of a second, not {advert_ms} ms: choose 10ms or a multiple")
    other = next(host for host in GATEWAYS if host != me)
    return _CONFIG.format(
        me=me,
        device=DEVICE,
        priority=PRIORITIES[me],
        advert_s=advert_ms / 1000,
        own=Host(me).ip,
        other=Host(other).ip,
        address=VIRTUAL_ADDRESS,
    )


class Program:
    """A keepalived that can be run: the machine's own, or one that was unpacked below the cache."""

    def __init__(self, path: Path, libraries: tuple[Path, ...]) -> None:
        self.path = path
        self.libraries = libraries

    def argv(self, configuration: Path, folder: Path) -> list[str]:
        """Return the command that runs it in the foreground, with its pid files in `folder` and its log on stderr."""
        found = ":".join(map(str, self.libraries))
        return [
            "env", f"LD_LIBRARY_PATH={found}", str(self.path), "--dont-fork", "--log-console", "--log-detail", "--vrrp",
            f"--use-file={configuration}", f"--pid={folder / 'keepalived.pid'}",
            f"--vrrp_pid={folder / 'keepalived-vrrp.pid'}",
        ]  # fmt: skip

    def version(self) -> str:
        """Return what it calls itself, as in `Keepalived v2.2.7 (01/16,2022)`."""
        environment = {**os.environ, "LD_LIBRARY_PATH": ":".join(map(str, self.libraries))}
        done = subprocess.run(
            [self.path, "--version"], capture_output=True, text=True, timeout=QUERY_S_MAX, env=environment
        )
        if done.returncode:
            raise LabError(f"keepalived does not run here: {done.stderr.strip()}")
        return (done.stderr + done.stdout).splitlines()[0].strip()


def fetch() -> Program:
    """Return a keepalived of this machine's own Debian release, with those of its libraries that the machine lacks.

    The machine's package state is read, to know what is lacking, and not written. Blocks: run it in a thread.

    Raises:
        LabError: apt can't deliver it.
    """
    if installed := shutil.which(PACKAGE, path="/usr/sbin:/usr/local/sbin:/usr/bin:/sbin"):
        return Program(Path(installed), ())
    tree = rootfs.cache_folder() / PACKAGE
    path = tree / "usr/sbin" / PACKAGE
    if not path.exists():
        _unpack(tree)
    libraries = {library.parent for place in ("lib", "usr/lib") for library in (tree / place).glob("*/*.so.*")}
    return Program(path, tuple(sorted(libraries)))


def _lacking(empty: Path, what: str) -> list[str]:
    """Return the packages that installing keepalived would bring to this machine."""
    # apt names only what is still to fetch: with an empty archive folder it names all.
    install = ["apt-get", "-qq", "-y", "--no-install-recommends", "install", PACKAGE, "--print-uris"]
    uris = _run([*install, f"-oDir::Cache::archives={empty}"], timeout_s=QUERY_S_MAX, what=what)
    # One line a package: 'URI' FILE SIZE HASH
    names = [line.split()[1].partition("_")[0] for line in uris.splitlines() if line.startswith("'")]
    if PACKAGE not in names:
        raise LabError(f"{what} failed: apt does not know it; 'apt-get update' fetches its lists")
    return names


def _unpack(tree: Path) -> None:
    what = "fetching the package keepalived"
    making = tree.with_name(f"{PACKAGE}-making-{os.getpid()}")
    shutil.rmtree(making, ignore_errors=True)
    for folder in ("debs", "empty/partial"):
        (making / folder).mkdir(parents=True)
    try:
        names = _lacking(making / "empty", what)
        done = subprocess.run(
            ["apt-get", "-qq", "-oAPT::Sandbox::User=root", "download", *names],
            cwd=making / "debs",
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_S_MAX,
        )
        if done.returncode:
            raise LabError(f"{what} failed: {done.stderr.strip() or 'apt-get said nothing'}")
        for deb in sorted((making / "debs").glob("*.deb")):
            _run(["dpkg-deb", "-x", str(deb), str(making)], timeout_s=QUERY_S_MAX, what=f"unpacking {deb.name!r}")
        shutil.rmtree(making / "debs")
        shutil.rmtree(making / "empty")
        shutil.rmtree(tree, ignore_errors=True)
        making.rename(tree)
    except FileNotFoundError as error:
        raise LabError(f"{what} needs apt-get: install keepalived by hand on a machine without it") from error
    finally:
        shutil.rmtree(making, ignore_errors=True)
