"""What goes into a support bundle: each part, and how it is had. Synchronous; nothing on the host is changed."""

import contextlib
import importlib.metadata
import json
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from gateway import __version__
from gateway.console.bundle import Part, Unavailable
from gateway.doctor.checks import CHECKS
from gateway.doctor.condor import CondorSilent, ask_condor
from gateway.doctor.facts import Facts
from gateway.doctor.findings import examine
from gateway.doctor.gather import Ask, NodeSilent
from gateway.doctor.host_facts import tool
from gateway.doctor.render import document, render

LOG_LINES: Final = 4_000
TOOL_S_MAX: Final = 10.0
HISTORY_MAX: Final = 1_000
STATE_FILES_MAX: Final = 2_000
UNIT: Final = "condor-gateway"
SECRET_FILES_MAX: Final = 64
SECRET_BYTES_MAX: Final = 16_384
# Where HTCondor keeps keys and tokens: what is in there is looked for in every part.
SECRET_PLACES: Final = "^(SEC_PASSWORD_FILE|SEC_PASSWORD_DIRECTORY|SEC_TOKEN_DIRECTORY|SEC_TOKEN_SYSTEM_DIRECTORY)$"


def parts(facts: Facts, ask: Ask | None) -> tuple[Part, ...]:
    """Return the parts of this host's bundle. `ask` asks its node; None where the file is not valid."""
    return (
        Part("doctor.txt", "what doctor found", lambda: _doctor_text(facts)),
        Part("doctor.json", "the same for programs", lambda: _doctor_json(facts)),
        Part("gateway.cfg", "the configuration file, and those that it includes", lambda: _configuration(facts)),
        Part("status.json", "the node's status", lambda: _asked(ask, "status")),
        Part(
            "history.json",
            "changes of leaders",
            lambda: _asked(ask, {"command": "history", "limit": HISTORY_MAX}),
        ),
        Part(
            "peers.json",
            "the other nodes' status",
            lambda: _asked(ask, {"command": "peers", "request": {"command": "status"}}),
        ),
        Part("versions.txt", "versions of programs and libraries", _versions),
        Part("host.txt", "kernel, limits, mounts", lambda: _host(facts)),
        Part("sysctls.txt", "sysctls that matter", lambda: _sysctls(facts)),
        Part("network.txt", "interfaces, routes, neighbours, listeners", _network),
        Part("nftables.txt", "this program's own tables", _tables),
        Part("condor.txt", "HTCondor's configuration as far as it matters", lambda: _condor(facts)),
        Part("condor-summary.txt", "what is not HTCondor's default", _condor_summary),
        Part("state-dir.txt", "names and sizes in state-dir", lambda: _state(facts)),
        Part("journal.txt", f"the newest {LOG_LINES} lines of the unit's journal", _journal),
    )


def secrets(facts: Facts) -> Iterator[bytes]:
    """Yield what must not be in any part: the cluster's keys, the page's token, HTCondor's keys and tokens."""
    places: list[Path] = []
    if facts.settings is not None:
        places.append(Path(facts.settings.key_file))
        console = facts.settings.console
        places += [Path(console.token_file)] if console is not None and console.token_file else []
    with contextlib.suppress(CondorSilent):
        places += [Path(knob.value) for knob in ask_condor(SECRET_PLACES).values() if knob.value.startswith("/")]
    count = 0
    for place in places:
        with contextlib.suppress(OSError):
            for path in sorted(place.iterdir()) if place.is_dir() else (place,):
                if count < SECRET_FILES_MAX and path.is_file():
                    count += 1
                    with path.open("rb") as file:
                        yield file.read(SECRET_BYTES_MAX)


def _doctor_text(facts: Facts) -> str:
    return render(examine(facts, CHECKS), verbose=True, colour=False) + "\n"


def _doctor_json(facts: Facts) -> str:
    now_s = time.time()
    return json.dumps(document(facts, examine(facts, CHECKS), now_s, now_s), indent=1) + "\n"


def _file(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror}") from None


def _configuration(facts: Facts) -> str:
    others = [f"\n# ---- included: {name}\n{text}" for name, text in facts.included]
    return "".join([_file(facts.path), *others])


def _asked(ask: Ask | None, request: str | dict[str, Any]) -> str:
    if ask is None:
        raise Unavailable("the configuration file is not valid, so that the node can't be found")
    try:
        return json.dumps(ask(request), indent=1) + "\n"
    except NodeSilent as error:
        raise Unavailable(str(error)) from None


def _run(*argv: str) -> str:
    """Return what a program prints, under its command line."""
    text, why = tool(argv, TOOL_S_MAX)
    return f"$ {' '.join(argv)}\n" + (text if text is not None else f"{why}\n")


def _all(*commands: Sequence[str]) -> str:
    return "\n".join(_run(*argv) for argv in commands)


def _versions() -> str:
    lines = [f"condor-gateway {__version__}", f"python {sys.version.split()[0]} ({sys.executable})"]
    for name in importlib.metadata.requires("condor-gateway") or () if _installed() else ():
        library = name.split(";")[0].split(">")[0].split("=")[0].strip()
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            lines.append(f"{library} {importlib.metadata.version(library)}")
    said = _all(["nft", "--version"], ["ip", "-Version"], ["condor_version"], ["systemctl", "--version"])
    return "\n".join(lines) + "\n" + said


def _installed() -> bool:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("condor-gateway")
        return True
    return False


def _host(facts: Facts) -> str:
    pid = (facts.status or {}).get("pid", "self")
    texts = [f"{' '.join(platform.uname())}\n"]
    for path in (
        "/etc/os-release",
        "/proc/uptime",
        "/proc/loadavg",
        "/proc/meminfo",
        f"/proc/{pid}/limits",
        "/proc/mounts",
    ):
        with contextlib.suppress(OSError):
            texts.append(f"$ cat {path}\n{Path(path).read_text(errors='replace')}")
    return "\n".join(texts)


def _sysctls(facts: Facts) -> str:
    return "".join(f"{name.replace('/', '.')} = {value}\n" for name, value in sorted(facts.sysctls.items()))


def _network() -> str:
    return _all(
        ["ip", "-details", "-statistics", "address", "show"],
        ["ip", "rule", "show"],
        ["ip", "route", "show", "table", "all"],
        ["ip", "-6", "route", "show", "table", "all"],
        ["ip", "neighbour", "show"],
        ["ss", "-lntu"],
    )


def _tables() -> str:
    """Return our own tables: what else the firewall has is nobody's business here."""
    text, why = tool(["nft", "-j", "list", "tables"])
    if text is None:
        raise Unavailable(why)
    listed = [one["table"] for one in json.loads(text)["nftables"] if "table" in one]
    ours = [one for one in listed if one["name"].startswith("condor-gateway-")]
    said = f"{len(listed) - len(ours)} tables of other programs are not shown\n\n"
    return said + _all(*(["nft", "list", "table", one["family"], one["name"]] for one in ours))


def _condor(facts: Facts) -> str:
    if facts.condor is None:
        raise Unavailable(facts.condor_unknown)
    return "".join(
        f"{name} = {knob.value}   ({knob.where or 'default'})\n" for name, knob in sorted(facts.condor.items())
    )


def _condor_summary() -> str:
    text, why = tool(["condor_config_val", "-summary"], TOOL_S_MAX)
    if text is None:
        raise Unavailable(why)
    return text


def _state(facts: Facts) -> str:
    if facts.settings is None:
        raise Unavailable("the configuration file is not valid")
    folder = Path(facts.settings.state_dir)
    if not folder.is_dir():
        raise Unavailable(f"{folder} is not there")
    lines = []
    for path in sorted(folder.rglob("*"))[:STATE_FILES_MAX]:
        with contextlib.suppress(OSError):
            seen = path.lstat()
            at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seen.st_mtime))
            lines.append(f"{seen.st_mode & 0o7777:04o} {seen.st_size:>12} {at} {path.relative_to(folder)}\n")
    return "".join(lines)


def _journal() -> str:
    text, why = tool(["journalctl", "-u", UNIT, "-n", str(LOG_LINES), "--no-pager", "-o", "short-iso"], TOOL_S_MAX)
    if text is None:
        raise Unavailable(why)
    return text
