"""Watching: once a second, what has changed on this node that no task tells by itself becomes an event; systemd hears.

Rule: it reads, in microseconds, and tells only differences: a state that lasts is told once.
"""

from collections.abc import Callable
from typing import Any, Final

import trio

from gateway.control.history import History
from gateway.core.node import Node
from gateway.kernel.clock import boot_ms
from gateway.kernel.sd_notify import SystemdNotifier

LOOK_S: Final = 1.0
SILENT_MS_MIN: Final = 3_000  # a peer that is silent for less is the election's business alone
UNHEARD_MS: Final = 15_000  # one that may be starting together with this node is waited for
LAG_MS_MAX: Final = 2_000  # a standby's replica that is older is behind
WARNINGS_MAX: Final = 1_000  # that have been told: some have numbers in them, and would be new for ever


class Watching:
    """What this node looked like a second ago.

    Args:
        history: where the differences are told.
        node: its peers, and who leads what.
        warnings: returns what an operator should know of this host, as sentences.
        matchmakers: by name, returns the status of this host's managers.
        notifier: systemd.
    """

    def __init__(
        self,
        *,
        history: History,
        node: Node,
        warnings: Callable[[], list[str]],
        matchmakers: dict[str, Callable[[], dict[str, Any]]],
        notifier: SystemdNotifier,
    ) -> None:
        self._history = history
        self._node = node
        self._warnings = warnings
        self._matchmakers = matchmakers
        self._notifier = notifier
        self._silent_ms = max(SILENT_MS_MIN, 2 * node.timing.lease_ms)
        self._began_ms = boot_ms()
        self._lost: set[str] = set()
        self._known: set[str] = set()  # peers that have been heard
        self._warned: dict[str, None] = {}
        self._behind: dict[tuple[str, str], str] = {}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look until cancelled."""
        task_status.started()
        self._notifier.ready()
        every_s = self._notifier.watchdog_s
        alive_at_s = trio.current_time()
        while True:  # ends by cancellation
            self.look()
            if every_s is not None and trio.current_time() >= alive_at_s:
                self._notifier.alive()
                alive_at_s = trio.current_time() + max(every_s - LOOK_S, 0.0)
            await trio.sleep(min(LOOK_S, every_s or LOOK_S))

    def look(self) -> None:
        """Tell what is different from the last look."""
        self._look_at_peers()
        self._look_at_standbys()
        for warning in self._warnings():
            if warning not in self._warned and len(self._warned) < WARNINGS_MAX:
                self._warned[warning] = None
                self._history.tell("warning", reason=warning)
        self._notifier.status(sentence_of(self._node))

    def _look_at_peers(self) -> None:
        now_ms = boot_ms()
        for peer in self._node.voters:
            if peer == self._node.me:
                continue
            heard_ms = self._node.heard_ms.get(peer)
            silent = now_ms - self._began_ms >= UNHEARD_MS if heard_ms is None else now_ms - heard_ms >= self._silent_ms
            if silent and peer not in self._lost:
                self._lost.add(peer)
                self._history.tell("peer-lost", peer=peer, reason=_silence(heard_ms, now_ms))
            elif not silent and heard_ms is not None and peer in self._lost:
                self._lost.remove(peer)
                self._history.tell("peer-returned", peer=peer)

    def _look_at_standbys(self) -> None:
        seen = set()
        for name, status in self._matchmakers.items():
            for standby, shipped in status().get("accounting", {}).get("standbys", {}).items():
                seen.add((name, standby))
                self._look_at_standby((name, standby), _fault_of(shipped))
        for gone in self._behind.keys() - seen:  # this manager does not lead any more
            del self._behind[gone]

    def _look_at_standby(self, key: tuple[str, str], fault: str) -> None:
        before = self._behind.get(key)
        self._behind[key] = fault
        if before is None and not fault:
            return  # whole from the start
        if bool(before) is not bool(fault):
            name, standby = key
            told = {"reason": fault} if fault else {}
            self._history.tell("standby-behind" if fault else "standby-whole", matchmaker=name, standby=standby, **told)


def sentence_of(node: Node) -> str:
    """Return what this node does, for `systemctl status`: "holds pool-vip; pool is at cm2"."""
    words = []
    for name, election in node.elections.items():
        if election.serving_term is not None:
            words.append(f"holds {name}")
        else:
            words.append(f"{name} is at {election.leader}" if election.leader else f"nobody leads {name}")
    orders = ["paused"] if node.book.paused else []
    return "; ".join([*orders, *words])


def _silence(heard_ms: int | None, now_ms: int) -> str:
    return "it has never been heard" if heard_ms is None else f"silent for {(now_ms - heard_ms) / 1000:.1f} s"


def _fault_of(shipped: dict[str, Any]) -> str:
    if not shipped["connected"]:
        return "not connected: it gets no accounting"
    return f"its accounting is {shipped['lag_ms']} ms old" if shipped["lag_ms"] >= LAG_MS_MAX else ""
