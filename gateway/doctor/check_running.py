"""Checks of the running node and of its peers: who is heard, who leads, what flaps, who has another file. Pure."""

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from gateway.doctor.facts import Facts
from gateway.doctor.findings import Check, Severity, Trouble, error, note, warning

HEARD_MS_MAX: Final = 2_000  # as `status` shows it; a hundred heartbeats of 20 ms
FLAPS_S: Final = 3_600  # changes are counted within this last hour
FLAPS_MAX: Final = 3  # more are not maintenance
SKEW_S: Final = 1.0  # reports of peers take part of it on their way
REFUSED_KINDS: Final = ("unknown-key", "wrong-cluster", "unknown-peer", "bad-seal", "unknown-version")


def node_runs(facts: Facts) -> list[Trouble] | None:
    """The node runs here."""
    if facts.me is None:
        return None
    if facts.status is None:
        return [
            note(
                f"no node runs here: {facts.status_unknown or 'nothing answers'}",
                "condor-gateway run, or systemctl start condor-gateway",
            )
        ]
    return []


def node_is_content(facts: Facts) -> list[Trouble] | None:
    """The node itself warns of nothing."""
    if facts.status is None:
        return None
    told = [str(sentence) for sentence in facts.status.get("warnings") or ()]
    failure = (facts.status.get("reloads") or {}).get("failure")
    if failure:
        told.append(f"the last reload was refused: {failure}")
    return [warning(sentence, "it says itself what to do; the log has the time") for sentence in told]


def node_has_read_the_file(facts: Facts) -> list[Trouble] | None:
    """The node runs by the file as it is now."""
    if not facts.running or not facts.digest:
        return None
    if facts.running != facts.digest:
        return [warning(f"the node runs by another configuration than {facts.path} has now", "condor-gateway reload")]
    return []


def peers_are_heard(facts: Facts) -> list[Trouble] | None:
    """Every peer's heartbeats arrive."""
    if facts.status is None:
        return None
    found = []
    for name, peer in (facts.status.get("peers") or {}).items():
        ago = peer.get("heard_ms_ago")
        if ago is None or ago > HEARD_MS_MAX:
            since = "never since this node started" if ago is None else f"not for {ago / 1000:.0f} s"
            found.append(
                warning(
                    f"peer {name} is not heard: {since}",
                    f"is condor-gateway running on {name}, and does UDP pass between you, both ways?",
                )
            )
    return found


def somebody_leads(facts: Facts) -> list[Trouble] | None:
    """Every election has a leader."""
    if facts.status is None:
        return None
    found = []
    for name, election in (facts.status.get("elections") or {}).items():
        if election.get("leader"):
            continue
        standings = election.get("candidates") or {}
        fit = [who for who, standing in standings.items() if standing and standing.get("fit")]
        why = f"fit are {', '.join(fit)}" if fit else "no candidate is fit"
        found.append(
            error(
                f"nobody leads {election.get('kind', 'election')} '{name}': {why}",
                "condor-gateway status shows each candidate; is a majority of the peers heard?",
            )
        )
    return found


def nothing_flaps(facts: Facts) -> list[Trouble] | None:
    """Leaders stay."""
    if facts.changes is None or facts.clock is None:
        return None
    since = facts.clock.unix_s - FLAPS_S
    recent = [change for change in facts.changes if float(change.get("at") or 0) >= since]
    counts = Counter(
        str(change.get("election")) for change in recent if change.get("cause") not in {"first", "requested"}
    )
    found = []
    for name, count in counts.items():
        if count > FLAPS_MAX:
            causes = Counter(str(change.get("cause")) for change in recent if change.get("election") == name)
            most = causes.most_common(1)[0][0]
            told = f"'{name}' had {count} leaders within the last hour, most often because of {most}"
            found.append(
                warning(told, "condor-gateway history; a longer lease, or what makes hosts late or the network lossy")
            )
    return found


def packets_are_accepted(facts: Facts) -> list[Trouble] | None:
    """No heartbeat is refused for a key or a name that differs."""
    if facts.status is None:
        return None
    refused = (facts.status.get("heartbeats") or {}).get("refused") or {}
    return [
        warning(
            f"{count} packets were refused as '{reason}'",
            "condor-gateway doctor --peers: is key file or cluster name another one somewhere?",
        )
        for reason, count in refused.items()
        if count and reason in REFUSED_KINDS
    ]


# ---- the other nodes, as they see themselves


def peers_answer(facts: Facts) -> list[Trouble] | None:
    """Every peer could be asked."""
    if not facts.peers:
        return None
    return [
        warning(f"{name} could not be asked: {report['error']}", f"run condor-gateway doctor on {name} itself")
        for name, report in sorted(facts.peers.items())
        if "error" in report
    ]


def files_are_alike(facts: Facts) -> list[Trouble] | None:
    """The file is the same on every node."""
    if not facts.peers:
        return None
    digests = {name: str(report.get("digest")) for name, report in facts.peers.items() if report.get("digest")}
    others = sorted(name for name, digest in digests.items() if digest != facts.digest)
    if not others:
        return []
    told = f"another configuration file than here is on {', '.join(others)}"
    return [error(told, f"copy {facts.path} to every node and run condor-gateway reload there")]


def programs_are_alike(facts: Facts) -> list[Trouble] | None:
    """Every node has the same version of the program."""
    if not facts.peers:
        return None
    others = {
        name: str(report.get("program"))
        for name, report in facts.peers.items()
        if report.get("program") not in {None, facts.program}
    }
    if not others:
        return []
    said = ", ".join(f"{name} {version}" for name, version in sorted(others.items()))
    return [note(f"this node runs version {facts.program}; {said}", "finish the upgrade: one node after the other")]


def clocks_are_alike(facts: Facts) -> list[Trouble] | None:
    """Clocks agree. Elections do not need it."""
    if not facts.peers or facts.clock is None:
        return None
    found = []
    for name, report in sorted(facts.peers.items()):
        ahead = report.get("ahead_s")
        if isinstance(ahead, int | float) and abs(ahead) > SKEW_S:
            way = "ahead of" if ahead > 0 else "behind"
            told = (
                f"the clock of {name} is {abs(ahead):.1f} s {way} this one's; elections do not need it, tokens and "
                "logs do"
            )
            found.append(note(told, "run chrony or systemd-timesyncd on both"))
    return found


def peers_are_sound(facts: Facts) -> Iterator[Trouble]:
    """What the peers found on themselves."""
    for name, report in sorted(facts.peers.items()):
        for finding in _findings(report):
            severity = Severity(finding["severity"])
            if severity in {Severity.WARNING, Severity.ERROR}:
                sentence = f"{name}: {finding['name']}: {finding['sentence']}"
                yield Trouble(severity, sentence, str(finding.get("remedy") or ""))


def _findings(report: Any) -> list[dict[str, Any]]:
    found = report.get("findings")
    return (
        [one for one in found if isinstance(one, dict) and one.get("severity") in set(Severity)]
        if isinstance(found, list)
        else []
    )


def peers_are_sound_where_asked(facts: Facts) -> list[Trouble] | None:
    """The same, where peers were asked."""
    return list(peers_are_sound(facts)) if facts.peers else None


CHECKS: tuple[Check, ...] = (
    Check("node-running", "the node runs", node_runs),
    Check("node-warnings", "the node warns of nothing", node_is_content),
    Check("file-loaded", "the node runs by the file as it is", node_has_read_the_file),
    Check("peers-heard", "every peer is heard", peers_are_heard),
    Check("leaders", "every election has a leader", somebody_leads),
    Check("flapping", "leaders stay", nothing_flaps),
    Check("refused-packets", "no heartbeat is refused", packets_are_accepted),
    Check("peers-asked", "every peer answered", peers_answer),
    Check("same-file", "the file is the same on every node", files_are_alike),
    Check("same-program", "every node has the same version", programs_are_alike),
    Check("clock-skew", "clocks agree", clocks_are_alike),
    Check("peer", "the peers found nothing on themselves", peers_are_sound_where_asked),
)
