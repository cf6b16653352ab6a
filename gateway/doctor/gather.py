"""Gathering: everything that the checks look at, from one host, in a few seconds. Changes nothing on it.

Rule: a fact that can't be had is not known; no part ends the others, and each has its deadline.
"""

import hashlib
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import trio

from gateway import __version__
from gateway.config import ConfigError, Severity, identify, load
from gateway.config.diagnostics import render_all
from gateway.config.settings import Peer, Settings
from gateway.doctor import host_facts, network_files
from gateway.doctor.check_condor import PATTERN
from gateway.doctor.condor import CONFIG_VAL, CondorSilent, Knob, ask_condor
from gateway.doctor.facts import Facts
from gateway.includes import read_included

PROBE_WAIT_MS: Final = 300
PROBE_COUNT: Final = 2
PROBES_S_MAX: Final = 8.0
PEERS_S_MAX: Final = 28.0  # each looks itself over: a busy host's HTCondor takes ten seconds

# Asks the node on this host, by its admin socket: returns its answer, or raises `NodeSilent`.
Ask = Callable[[str | dict[str, Any]], Any]


class NodeSilent(Exception):  # noqa: N818 (a condition of the host)
    """No node answers here, or it does not know the question; the sentence says which."""


def gather(path: str, *, node: str | None, ask: Callable[[Settings], Ask], config_val: str = CONFIG_VAL) -> Facts:
    """Return the facts of this host by the configuration file at `path`.

    Args:
        path: of the file; where it can't be read, that is a fact too.
        node: which peer this host is; None: found out.
        ask: makes a function that asks the node which the file describes.
        config_val: HTCondor's own tool.
    """
    text, invalid = _read(path)
    included: list[tuple[str, str]] = []

    def read(name: str) -> tuple[tuple[str, str], ...]:
        found = read_included(name)
        included.extend(found)
        return found

    loaded = load(text, path, os.environ, read)
    settings = loaded.settings
    if settings is None and not invalid:
        invalid = render_all(loaded.diagnostics)
    root = os.geteuid() == 0
    devices = host_facts.devices()
    rules, rules_unknown = host_facts.ruleset() if root else (None, "this needs root")
    facts = Facts(
        host=socket.gethostname(),
        program=__version__,
        root=root,
        path=path,
        included=tuple(included),
        digest=settings_digest(settings) if settings is not None else "",
        invalid=invalid,
        advice=tuple(one.message for one in loaded.diagnostics if one.severity is Severity.WARNING),
        settings=settings,
        kernel=host_facts.kernel_version(),
        clock=host_facts.clock(),
        sysctls=host_facts.sysctls(devices or ()),
        sysctls_fixed=host_facts.sysctls_fixed(),
        devices=devices,
        networkd=network_files.networkd(devices or ()),
        ruleset=rules,
        ruleset_unknown=rules_unknown,
        legacy_tables=host_facts.legacy_tables(),
    )
    facts = msgspec.structs.replace(facts, conntrack=host_facts.conntrack(facts.sysctls))
    facts = _with_condor(facts, config_val)
    return _with_node(facts, settings, node, ask) if settings is not None else facts


def settings_digest(settings: Settings) -> str:
    """Return what stands for `settings`: the node answers `config` with the same of what it runs by."""
    return hashlib.sha256(msgspec.json.encode(settings, order="deterministic")).hexdigest()[:16]


def _read(path: str) -> tuple[str, str]:
    try:
        return Path(path).read_text(encoding="utf-8"), ""
    except FileNotFoundError:
        return "", f"{path} does not exist"
    except (OSError, UnicodeDecodeError) as error:
        return "", f"{path} can't be read: {getattr(error, 'strerror', None) or 'not UTF-8 text'}"


def _with_condor(facts: Facts, config_val: str) -> Facts:
    try:
        knobs: Mapping[str, Knob] = ask_condor(PATTERN, config_val=config_val)
    except CondorSilent as error:
        return msgspec.structs.replace(facts, condor_unknown=str(error))
    return msgspec.structs.replace(facts, condor=knobs)


def _with_node(facts: Facts, settings: Settings, node: str | None, ask: Callable[[Settings], Ask]) -> Facts:
    me, stranger = _identify(settings, node, facts)
    asked = ask(settings)
    status, status_unknown, changes = _ask_node(asked)
    pid = status.get("pid") if status is not None else None
    facts = msgspec.structs.replace(
        facts,
        me=me,
        stranger=stranger,
        key=_key(settings) if facts.root else "",
        state=host_facts.state_folder(settings.state_dir),
        mentions=network_files.mentions(address.ip for address in settings.addresses),
        # What a running node may have is in its own warnings.
        realtime=host_facts.realtime() if facts.root and status is None else None,
        descriptors=host_facts.descriptors(pid if isinstance(pid, int) else None),
        status=status,
        status_unknown=status_unknown,
        changes=changes,
        running=_running(asked) if status is not None else "",
    )
    if facts.root and status is None:
        facts = msgspec.structs.replace(facts, answered=_probe(facts))
    return facts


def _identify(settings: Settings, node: str | None, facts: Facts) -> tuple[Peer | None, str]:
    local = frozenset(address.ip for device in (facts.devices or {}).values() for address in device.addresses)
    try:
        return identify(settings, node=node, host_name=facts.host, local_addresses=local), ""
    except ConfigError as error:
        return None, str(error)


def _key(settings: Settings) -> str:
    from gateway.config.keyfile import KeyFileError
    from gateway.keyfiles import read_key_file

    try:
        read_key_file(settings.key_file)
    except KeyFileError as error:
        return str(error)
    return ""


def _ask_node(ask: Ask) -> tuple[dict[str, Any] | None, str, tuple[dict[str, Any], ...] | None]:
    try:
        status = ask("status")
    except NodeSilent as error:
        return None, str(error), None
    if not isinstance(status, dict):
        return None, "what it answers is no status", None
    try:
        changes = ask({"command": "history", "limit": 1000})["changes"]
        return status, "", tuple(one for one in changes if isinstance(one, dict))
    except (NodeSilent, KeyError, TypeError):
        return status, "", None


def _running(ask: Ask) -> str:
    try:
        return str(ask("config")["digest"])
    except (NodeSilent, KeyError, TypeError):
        return ""


def ask_peers(ask: Ask, request: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what each other node answers to `request`, with how far its clock is certainly ahead, as `ahead_s`.

    A report has `began_s` and `ended_s`, its own clock's. It began after we asked, and ended before we had it: what
    these bounds leave open is no skew.

    Raises:
        NodeSilent: this host's node can't ask the others.
    """
    asked_s = time.time()
    answers = ask({"command": "peers", "request": request, "wait_s": PEERS_S_MAX})
    had_s = time.time()
    found = {}
    for name, answer in answers.items() if isinstance(answers, dict) else ():
        report = dict(answer) if isinstance(answer, dict) else {"error": "what it answers is no report"}
        began_s, ended_s = report.get("began_s"), report.get("ended_s")
        if isinstance(began_s, int | float) and isinstance(ended_s, int | float):
            report["ahead_s"] = certain_skew(asked_s, had_s, began_s, ended_s)
        found[str(name)] = report
    return found


def certain_skew(asked_s: float, had_s: float, began_s: float, ended_s: float) -> float:
    """Return how far a clock is ahead (negative: behind) that showed `began_s` and `ended_s` then, at the least."""
    least, most = ended_s - had_s, began_s - asked_s
    return least if least > 0 else most if most < 0 else 0.0


def _probe(facts: Facts) -> dict[str, tuple[str, ...]]:
    """Ask the network who has each address that this node may hold; return the MACs of those who are no holders."""
    from gateway.kernel.neighbour import who_has
    from gateway.kernel.netlink import KernelRefused

    settings, me = facts.settings, facts.me
    if settings is None or me is None:
        return {}
    found: dict[str, tuple[str, ...]] = {}

    async def probe() -> None:
        for address in facts.held():
            device = (facts.devices or {}).get(address.device)
            if device is None or not device.up:
                continue
            try:
                macs = await who_has(address.ip, address.device, wait_ms=PROBE_WAIT_MS, count=PROBE_COUNT)
                for holder in address.holders:
                    if macs and holder != me.name:
                        host = settings.peer(holder).endpoint.host
                        macs -= await who_has(host, address.device, wait_ms=PROBE_WAIT_MS, count=PROBE_COUNT)
            except KernelRefused:
                continue
            found[address.name] = tuple(sorted(macs))

    async def bounded() -> None:
        with trio.move_on_after(PROBES_S_MAX):
            await probe()

    trio.run(bounded)
    return found
