"""Build condor-gateway's Debian package: `make deb`, or `python -m gateway.debian.build`.

Rule: what is in the package depends on this checkout, the release it is for, and the versions of the libraries; owners,
modes and times are set here, not taken from who builds. The libraries are in the package, because Debian's own of
pyroute2 are older than what this program needs; they lie in its folder and are nobody else's.
"""

import argparse
import gzip
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from string import Template

from gateway import __version__
from gateway.lab.errors import LabError
from gateway.lab.libraries import install_libraries

PACKAGE = "condor-gateway"
PYTHONS = {"bookworm": "3.11", "trixie": "3.13"}  # of each release that a package can be built for
HOME = "usr/lib/condor-gateway"
FILES = Path(__file__).parent / "files"
ROOT = Path(__file__).parents[2]
BUILD_S_MAX = 300

LAUNCHER = f"""#!/bin/sh
PYTHONPATH=/{HOME}
PYTHONDONTWRITEBYTECODE=1
export PYTHONPATH PYTHONDONTWRITEBYTECODE
exec /usr/bin/python3 -P -m gateway "$@"
"""

CONTROL = Template("""\
Package: $package
Version: $version
Section: net
Priority: optional
Architecture: $architecture
Maintainer: The condor-gateway developers <condor-gateway@localhost>
Installed-Size: $size
Depends: python3 (>= $python), python3 (<< $next_python), libc6, nftables, iproute2, init-system-helpers
Recommends: condor
Description: highly available HTCondor matchmaker behind one virtual address
 An HTCondor pool has one matchmaker. condor-gateway gives it a virtual
 address that never changes: gateways own it, one at a time, and forward to
 whichever central manager an embedded election currently elects. Standby
 managers hold warm collectors and a streamed copy of the accounting.
 .
 Install it on every gateway, central manager and witness. Submit and execute
 hosts need nothing but CONDOR_HOST.
""")

COPYRIGHT = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: condor-gateway

Files: *
Copyright: the condor-gateway developers
License: GPL-2+
 On Debian systems the full text is in /usr/share/common-licenses/GPL-2.

Files: usr/lib/condor-gateway/*
Copyright: their authors, as the METADATA and LICENSE files beside each library say
License: various
 Libraries under licences compatible with the GPL; each has its own in its .dist-info folder.
"""


def build(release: str, folder: Path, compression: str = "xz") -> Path:
    """Build the package for a Debian `release` into `folder`; return its path.

    `compression` is dpkg-deb's: xz takes 15 s, gzip 2 s and a third more room.

    Raises:
        LabError: an unknown release, a library that can't be had, no dpkg-deb on this machine.
    """
    if release not in PYTHONS:
        raise LabError(f"no package is made for Debian {release!r}: choose one of {', '.join(PYTHONS)}")
    architecture = _run(["dpkg", "--print-architecture"], "asking dpkg for the architecture").strip()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="deb-", dir=folder) as made:
        root = Path(made) / "root"
        root.mkdir(mode=0o755)
        _lay_program(root, PYTHONS[release])
        _lay_files(root)
        _lay_documents(root, Path(made))
        _lay_control(root, release, architecture)
        _even_out(root)
        version = package_version(release)
        package = folder / f"{PACKAGE}_{version}_{architecture}.deb"
        _run(
            ["dpkg-deb", "--root-owner-group", f"-Z{compression}", "--build", str(root), str(package)],
            "building the package",
        )
    return package


def package_version(release: str) -> str:
    """Return the package's version: that of the program, and the release that it is for, so that upgrades sort."""
    number = {"bookworm": 12, "trixie": 13}[release]
    return f"{__version__.replace('.dev', '~dev')}-1~deb{number}"


def _lay_program(root: Path, python: str) -> None:
    home = root / HOME
    home.mkdir(parents=True)
    install_libraries(home, python)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
    pip += ["--no-deps", "--no-compile", "--root-user-action=ignore", "--target", str(home), str(ROOT)]
    _run(pip, "making the program's own wheel")
    shutil.rmtree(home / "bin", ignore_errors=True)
    launcher = root / "usr/bin" / PACKAGE
    launcher.parent.mkdir(parents=True)
    launcher.write_text(LAUNCHER)


def _lay_files(root: Path) -> None:
    unit = root / "usr/lib/systemd/system" / f"{PACKAGE}.service"
    unit.parent.mkdir(parents=True)
    shutil.copy(FILES / unit.name, unit)
    shutil.copy(FILES / "under-condor-master", root / HOME / "under-condor-master")
    (root / "etc" / PACKAGE).mkdir(parents=True)


def _lay_documents(root: Path, scratch: Path) -> None:
    documents = root / "usr/share/doc" / PACKAGE
    documents.mkdir(parents=True)
    (documents / "copyright").write_text(COPYRIGHT)
    shutil.copy(ROOT / "README.md", documents / "README.md")
    for name in ("gateway-only.conf", "condor-master.conf"):
        shutil.copy(FILES / name, documents / name)
    changes = f"{PACKAGE} ({__version__}-1) unstable; urgency=medium\n\n  * See README.md.\n"
    (documents / "changelog.Debian.gz").write_bytes(gzip.compress(changes.encode(), mtime=0))
    examples = documents / "examples"
    examples.mkdir()
    for example in sorted((ROOT / "haproxy-like-config").glob("*.cfg")):
        shutil.copy(example, examples / example.name)
    _lay_generated(root, scratch)


def _lay_generated(root: Path, scratch: Path) -> None:
    """Lay man pages and completions, which the program itself makes from its own text."""
    gateway = [sys.executable, "-m", "gateway"]
    _run([*gateway, "man", "-o", str(scratch)], "making the man pages")
    pages = sorted(scratch.glob("man?/*"))
    assert pages, "the program has pages"
    for page in pages:
        target = root / f"usr/share/man/man{page.suffix[1:]}" / f"{page.name}.gz"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(gzip.compress(page.read_bytes(), mtime=0))
    for shell, place in (
        ("bash", f"usr/share/bash-completion/completions/{PACKAGE}"),
        ("zsh", f"usr/share/zsh/vendor-completions/_{PACKAGE}"),
        ("fish", f"usr/share/fish/vendor_completions.d/{PACKAGE}.fish"),
    ):
        completion = root / place
        completion.parent.mkdir(parents=True)
        completion.write_text(_run([*gateway, "completion", shell], f"making the completion for {shell}"))


def _lay_control(root: Path, release: str, architecture: str) -> None:
    control = root / "DEBIAN"
    control.mkdir()
    major, minor = PYTHONS[release].split(".")
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) // 1024
    (control / "control").write_text(
        CONTROL.substitute(
            package=PACKAGE,
            version=package_version(release),
            architecture=architecture,
            size=size,
            python=PYTHONS[release],
            next_python=f"{major}.{int(minor) + 1}",
        )
    )
    for name in ("postinst", "prerm", "postrm"):
        shutil.copy(FILES / name, control / name)
        (control / name).chmod(0o755)


def _even_out(root: Path) -> None:
    """Give every file the mode that its kind has in Debian, whatever the umask of who builds."""
    for path in [root, *root.rglob("*")]:
        if path.is_symlink():
            continue
        executable = path.is_dir() or (path.parent.name == "DEBIAN" and path.name != "control")
        executable = executable or path.parent == root / "usr/bin" or path.name == "under-condor-master"
        path.chmod(0o755 if executable else 0o644)


def _run(argv: list[str], what: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=BUILD_S_MAX, env=environment)
    except FileNotFoundError as error:
        raise LabError(f"{what} needs the command '{argv[0]}', which this machine lacks") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{what} took longer than {BUILD_S_MAX} s") from error
    if done.returncode != 0:
        raise LabError(f"{what} failed: {done.stderr.strip()[-500:]}")
    return done.stdout


def main() -> int:
    """Build the package and print its path."""
    parser = argparse.ArgumentParser(prog="python -m gateway.debian.build", description=main.__doc__)
    parser.add_argument("--release", default="trixie", help=f"of Debian: {' or '.join(PYTHONS)} (default trixie)")
    parser.add_argument("-o", "--out", type=Path, default=ROOT / "build", help="folder (default build)")
    parser.add_argument("--compression", choices=("xz", "gzip"), default="xz", help="gzip is quick (default xz)")
    chosen = parser.parse_args()
    try:
        print(build(chosen.release, chosen.out, chosen.compression))
    except LabError as error:
        print(f"condor-gateway: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
