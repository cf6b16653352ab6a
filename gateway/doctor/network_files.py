"""The host's own network configuration, as far as it concerns virtual addresses. Reads files, a bounded number."""

import contextlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from gateway.doctor.facts import Mention

FILES_MAX: Final = 512
FILE_BYTES_MAX: Final = 1 << 20

# Where a host may be told to set an address at boot; keepalived too, which would fight with us.
PLACES: Final = (
    "etc/network/interfaces",
    "etc/network/interfaces.d/*",
    "etc/netplan/*.yaml",
    "etc/NetworkManager/system-connections/*",
    "run/NetworkManager/system-connections/*",
    "etc/systemd/network/*.network",
    "etc/systemd/network/*.network.d/*.conf",
    "etc/sysconfig/network-scripts/ifcfg-*",
    "etc/dhcpcd.conf",
    "etc/keepalived/keepalived.conf",
    "etc/ucarp/*",
    "etc/rc.local",
)


def mentions(addresses: Iterable[str], root: Path = Path("/")) -> tuple[Mention, ...]:
    """Return the lines of the host's network configuration in which one of `addresses` stands, comments left out."""
    wanted = [(address, re.compile(rf"(?<![\w.:]){re.escape(address)}(?![\w.:])")) for address in addresses]
    if not wanted:
        return ()
    found = []
    for path in _files(root):
        for number, line in enumerate(_read(path).splitlines(), 1):
            bare = line.strip()
            if bare.startswith(("#", ";", "!")):
                continue
            for address, pattern in wanted:
                if pattern.search(bare):
                    found.append(Mention(path=f"/{path.relative_to(root)}", line=number, address=address))
    return tuple(found)


def _files(root: Path) -> Iterator[Path]:
    count = 0
    for place in PLACES:
        for path in sorted(root.glob(place)):
            if path.is_file() and count < FILES_MAX:
                count += 1
                yield path


def _read(path: Path) -> str:
    with contextlib.suppress(OSError), path.open("rb") as file:
        return file.read(FILE_BYTES_MAX).decode(errors="replace")
    return ""


def networkd(devices: Iterable[str], root: Path = Path("/")) -> dict[str, str]:
    """Return the devices that systemd-networkd manages, each with its KeepConfiguration ("" where none is written)."""
    found = {}
    for device in devices:
        index = _read(root / "sys/class/net" / device / "ifindex").strip()
        link = _read(root / "run/systemd/netif/links" / index) if index else ""
        named = re.search(r"^NETWORK_FILE=(.+)$", link, re.MULTILINE)
        if named is None or re.search(r"^ADMIN_STATE=unmanaged$", link, re.MULTILINE):
            continue
        file = root / named[1].strip().lstrip("/")
        texts = [_read(file), *(_read(path) for path in _drop_ins(file, root))]
        found[device] = ""
        for text in texts:
            for value in re.findall(r"^\s*KeepConfiguration\s*=\s*(\S*)", text, re.MULTILINE):
                found[device] = value  # the last one counts: systemd.network(5)
    return found


def _drop_ins(file: Path, root: Path) -> list[Path]:
    folders = [root / place / "systemd/network" / f"{file.name}.d" for place in ("usr/lib", "run", "etc")]
    named = {path.name: path for folder in folders for path in folder.glob("*.conf")}
    return [named[name] for name in sorted(named)]
