"""Debian packages of any suite, fetched through the machine's own apt and unpacked, never installed.

The machine's own package state is neither read nor written: apt gets a state, cache and source list of ours.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gateway.lab.errors import LabError

Progress = Callable[[str], None]

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
DOWNLOAD_S_MAX = 1_200  # 100 MiB through a slow mirror
QUERY_S_MAX = 60
UNPACK_WORKERS = 2  # unpacking is bound by xz; more only takes memory


def _run(argv: Sequence[str], *, timeout_s: float, what: str) -> str:
    """Run a command and return its output; raise `LabError` with its last words where it fails."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s, env=environment, check=False)
    except FileNotFoundError as error:
        raise LabError(
            f"{what} needs the command {argv[0]!r}, which this machine lacks: the lab needs a Debian machine"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{what} took longer than {timeout_s:.0f} s: is the package mirror reachable?") from error
    if done.returncode != 0:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        said = [line for line in lines if line.startswith("E:")] or lines[-1:] or ["it said nothing"]
        raise LabError(f"{what} failed: {' '.join(said[:3])}")
    return done.stdout


def _codename() -> str:
    """The machine's own Debian release by name, "" where it has none (sid)."""
    for line in Path("/etc/os-release").read_text().splitlines():
        if line.startswith("VERSION_CODENAME="):
            return line.partition("=")[2].strip().strip('"')
    return ""


def mirror_uri() -> str:
    """The URI of the Debian archive that this machine's apt uses.

    Raises:
        LabError: apt has no source of Debian's main archive.
    """
    listing = _run(
        ["apt-get", "indextargets", "--no-release-info", "--format", "$(RELEASE) $(COMPONENT) $(REPO_URI)",
         "Created-By: Packages"],
        timeout_s=QUERY_S_MAX,
        what="reading the apt sources",
    )  # fmt: skip
    wanted = {_codename(), "stable", "testing", "unstable", "sid"} - {""}
    for line in listing.splitlines():
        release, component, uri = line.split(maxsplit=2)
        if release in wanted and component == "main":
            return uri.rstrip("/")
    raise LabError(
        "no Debian mirror among this machine's apt sources: add one for 'main' of its own release to "
        "/etc/apt/sources.list.d"
    )


class Archive:
    """A suite of Debian with an apt configuration of its own below `folder`; downloads are kept there."""

    def __init__(self, suite: str, folder: Path) -> None:
        self.suite = suite
        self.folder = folder
        self._options: list[str] = []

    def refresh(self) -> None:
        """Fetch the suite's package lists.

        Raises:
            LabError: no source, no network, no such suite, or a signature that this machine cannot check.
        """
        for part in ("state/lists/partial", "cache/archives/partial"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        status = self.folder / "state/status"
        status.write_text("")  # nothing is installed, so every dependency is resolved
        signed_by = f" [signed-by={KEYRING}]" if KEYRING.exists() else ""
        sources = self.folder / "sources.list"
        sources.write_text(f"deb{signed_by} {mirror_uri()} {self.suite} main\n")
        settings = {
            "Dir::State": self.folder / "state",
            "Dir::State::status": status,
            "Dir::Cache": self.folder / "cache",
            "Dir::Etc::sourcelist": sources,
            "Dir::Etc::sourceparts": "-",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "-",
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "root",  # the _apt user cannot write to root's cache
            "APT::Get::AllowUnauthenticated": "false",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "Binary::apt-get::APT::Keep-Downloaded-Packages": "true",
            "APT::Keep-Downloaded-Packages": "true",
        }
        self._options = [f"-o{key}={value}" for key, value in settings.items()]
        _run(
            ["apt-get", *self._options, "-qq", "update"],
            timeout_s=DOWNLOAD_S_MAX,
            what=f"fetching the package lists of Debian {self.suite}",
        )

    def download(self, packages: Iterable[str]) -> list[Path]:
        """Fetch `packages` with all that they depend on; return their .deb files. Call `refresh` first.

        Raises:
            LabError: a package cannot be had.
        """
        install = ["apt-get", *self._options, "-y", "-qq", "install", *packages]
        # apt names only what is still to fetch: with an empty archive folder it names all.
        empty = self.folder / "empty"
        (empty / "partial").mkdir(parents=True, exist_ok=True)
        what = f"fetching the packages of Debian {self.suite}"
        uris = _run([*install, "--print-uris", f"-oDir::Cache::archives={empty}"], timeout_s=QUERY_S_MAX, what=what)
        # One line a package: 'URI' FILE SIZE HASH
        names = [line.split()[1] for line in uris.splitlines() if line.startswith("'")]
        _run([*install, "--download-only"], timeout_s=DOWNLOAD_S_MAX, what=what)
        files = [self.folder / "cache/archives" / name for name in names]
        if missing := [file.name for file in files if not file.exists()]:
            raise LabError(f"{what} failed: apt did not deliver {missing[0]!r}")
        return files


def _unpack_one(deb: Path, root: Path) -> None:
    source = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE)
    # /bin, /lib and /sbin are links into /usr: a package that ships them as directories must not replace them.
    tar = ["tar", "-C", str(root), "-x", "-f", "-", "--keep-directory-symlink", "--warning=no-timestamp"]
    tar += ["--exclude=./usr/share/doc/*", "--exclude=./usr/share/man/*", "--exclude=./usr/share/locale/*"]
    try:
        done = subprocess.run(tar, stdin=source.stdout, capture_output=True, text=True, check=False)
    finally:
        if source.stdout:
            source.stdout.close()
        source.wait()
    if source.returncode or done.returncode:
        raise LabError(f"unpacking {deb.name!r} failed: {done.stderr.strip() or 'dpkg-deb could not read it'}")


def unpack(debs: Sequence[Path], root: Path) -> None:
    """Unpack the files of `debs` below `root`. No script of theirs is run. Needs root, to keep their owners.

    Raises:
        LabError: an archive is damaged or the disk is full.
    """
    if shutil.which("dpkg-deb") is None:
        raise LabError("unpacking Debian packages needs dpkg-deb: the lab needs a Debian machine")
    # base-files holds the directories and links that every other package relies on.
    first = [deb for deb in debs if deb.name.startswith("base-files_")]
    for deb in first:
        _unpack_one(deb, root)
    with ThreadPoolExecutor(UNPACK_WORKERS) as pool:
        list(pool.map(lambda deb: _unpack_one(deb, root), [deb for deb in debs if deb not in first]))
