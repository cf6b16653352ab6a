"""Status: what this node knows, as one JSON document. Reads the other parts; changes nothing.

The document's `schema` grows when a field changes its meaning; fields are only ever added within one.
"""

import os
from collections.abc import Sequence
from typing import Any

from gateway import __version__
from gateway.config.settings import Peer, Settings
from gateway.control import figures
from gateway.control.address import AddressService
from gateway.control.diversions import Diversions
from gateway.control.door import Door
from gateway.control.forwarding import Forwarding
from gateway.control.guard import GuardLink
from gateway.control.heartbeats import Heartbeats
from gateway.control.history import History
from gateway.control.link import ClusterLink
from gateway.control.matchmaker import MatchmakerService
from gateway.control.offspring import Offspring
from gateway.control.ordering import Ordering
from gateway.control.receiving import Receivings
from gateway.control.returns import Returns
from gateway.control.shell import Shell
from gateway.core.election import Election
from gateway.kernel.clock import boot_ms

SCHEMA = 1


class Status:
    """Builds the document from the parts of one node."""

    def __init__(
        self,
        *,
        settings: Settings,
        me: Peer,
        shell: Shell,
        heartbeats: Heartbeats,
        addresses: tuple[AddressService, ...],
        matchmakers: tuple[MatchmakerService, ...],
        forwarding: Forwarding,
        diversions: Diversions,
        receivings: Receivings,
        returns: Returns,
        link: GuardLink,
        door: Door,
        peers: ClusterLink,
        history: History,
        ordering: Ordering,
        children: Sequence[Offspring],
        warnings: list[str],
    ) -> None:
        self._settings = settings
        self._me = me
        self._shell = shell
        self._heartbeats = heartbeats
        self._addresses = {service.name: service for service in addresses}
        self._matchmakers = {service.name: service for service in matchmakers}
        self._forwarding = forwarding
        self._diversions = diversions
        self._receivings = receivings
        self._returns = returns
        self._link = link
        self._door = door
        self._peers = peers
        self._history = history
        self._ordering = ordering
        self._children = children
        self._warnings = warnings
        self._since_ms = boot_ms()

    def warnings(self) -> list[str]:
        """Return what an operator should know of this host."""
        return [
            *self._warnings,
            *self._forwarding.warnings,
            *self._diversions.warnings,
            *self._link.report.get("warnings", ()),
        ]

    def document(self) -> dict[str, Any]:
        """Return the status of this moment."""
        now_ms = boot_ms()
        node = self._shell.node
        traffic = self._forwarding.traffic
        backends = figures.of_backends(self._settings, traffic.backends(), self._diversions.carried())
        kinds = dict.fromkeys((address.name for address in self._settings.addresses), "address")
        return {
            "schema": SCHEMA,
            "version": __version__,
            "uptime_ms": now_ms - self._since_ms,
            "cluster": self._settings.cluster,
            "node": self._me.name,
            "roles": sorted(self._me.roles),
            "pid": os.getpid(),
            "warnings": self.warnings(),
            "guard": self._guard(),
            "reloads": {"failed_total": self._link.reloads_failed, "failure": self._link.reload_failure},
            "slowness": {
                "late_timers_total": node.slowness.late_total,
                "late_ms_max": node.slowness.late_ms_max,
                "patience_ms": node.slowness.patience_ms,
                "suspensions_total": self._shell.suspensions_total,
            },
            "timer_late_ms_max": self._shell.late_ms_max,
            "timing": {"heartbeat_ms": self._settings.heartbeat_ms, "lease_ms": self._settings.lease_ms},
            "on_partition": str(self._settings.on_partition),
            "elections": {
                name: self._election(election, kinds.get(name, "matchmaker"), now_ms)
                for name, election in node.elections.items()
            },
            "orders": self._ordering.status(),
            "peers": {
                name: {"heard_ms_ago": now_ms - node.heard_ms[name] if name in node.heard_ms else None}
                for name in node.voters
                if name != node.me
            },
            "addresses": {name: service.status() for name, service in self._addresses.items()},
            "matchmakers": {name: service.status() for name, service in self._matchmakers.items()},
            "frontends": figures.of_frontends(self._settings, traffic.frontends(), backends),
            "backends": backends,
            "relay": self._forwarding.status(),
            "diversions": self._diversions.status(),
            "receiving": self._receivings.status(),
            "returns": self._returns.status(),
            "history": self._history.status(),
            "children": {child.name: child.status() for child in self._children},
            "door": self._door.status(),
            "cluster_link": self._peers.status(),
            "heartbeats": {
                "lanes": self._heartbeats.lanes,
                "sent_total": self._heartbeats.sent_total,
                "received_total": self._heartbeats.received_total,
                "unsent": dict(self._heartbeats.unsent),
                "refused": {str(reason): count for reason, count in self._heartbeats.refused.items()},
            },
        }

    def _election(self, election: Election, kind: str, now_ms: int) -> dict[str, Any]:
        serving = election.serving_term is not None
        standings = {
            name: {
                "fit": standing.fit,
                "warm": standing.warm,
                "term": standing.term,
                "generation": standing.generation,
                "records": standing.records,
                "instance": standing.instance,
                "heard_ms_ago": now_ms - heard_ms,
            }
            for name, (standing, heard_ms) in election.ranking.heard.items()
        }
        if self._me.name in election.candidates:
            mine = election.standing
            standings[self._me.name] = {
                "fit": mine.fit and not self._shell.node.book.drains_me,
                "warm": mine.warm,
                "term": mine.term,
                "generation": mine.generation,
                "records": mine.records,
                "instance": mine.instance,
                "heard_ms_ago": 0,
                "reason": self._ordering.why_unfit(election),
            }
        return {
            "kind": kind,
            "role": election.role.value,
            "term": election.term,
            "leader": election.leader,
            "leader_term": election.leader_term if election.leader is not None else None,
            "lease_left_ms": max(election.lease_until_ms - now_ms, 0) if serving else None,
            "answered_ms_ago": _ago(election.lease.answers, now_ms) if serving else None,
            "promise": {
                "to": election.promise.to,
                "term": election.promise.term,
                "left_ms": max(election.promise.until_ms - now_ms, 0),
            },
            "last_change": self._history.last(election.name),
            "lost": self._history.lost(election.name),
            "candidates": {name: standings.get(name) for name in election.candidates},
        }

    def _guard(self) -> dict[str, Any] | None:
        report = self._link.report
        if not self._link.present or not report:
            return None
        return {
            "pid": report["pid"],
            "control_restarts_total": report["restarts"],
            "control_killed_total": report["kills"],
            "control_late_total": report["lates"],
            "letters_sent_total": report["letters"],
        }


def _ago(moments_ms: dict[str, int], now_ms: int) -> dict[str, int]:
    return {name: now_ms - moment_ms for name, moment_ms in moments_ms.items()}
