"""Report: a run in fixed-width lines, one an event, and the file that a failure leaves behind."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.core.actions import (
    Action,
    AnnounceAgain,
    ExtendServing,
    FollowLeader,
    PersistOrders,
    PersistVote,
    Send,
    StartServing,
    StopServing,
)
from gateway.core.events import (
    DeadlineReached,
    Event,
    MessageReceived,
    OrdersGiven,
    OrdersPersisted,
    PrimedChanged,
    ResignationRequested,
    ServingStopped,
    StandingChanged,
    SuspensionNoticed,
    VotePersisted,
)
from gateway.core.node import Node
from gateway.wire.messages import Ack, Message, Orders, Pulse, Resignation, Standing, VoteReply, VoteRequest

if TYPE_CHECKING:
    from .host import Host

ROLE_LETTERS = {"PRE": ".", "PASSIVE": "p", "ELECTION": "e", "LEADER": "L"}
REPORTS = Path(tempfile.gettempdir()) / "condor-gateway-sim"


def describe_message(message: Message) -> str:
    match message:
        case Pulse(sent_ms, leads):
            led = " ".join(f"{name}={term}" for name, term in leads)
            return f"pulse@{sent_ms} {led}".rstrip()
        case Ack(sent_ms, leads):
            return f"ack@{sent_ms} " + " ".join(f"{name}={term}" for name, term in leads)
        case VoteRequest(election, term, pre, sent_ms):
            return f"{'pre-vote' if pre else 'vote'}?@{sent_ms} {election}={term}"
        case VoteReply(election, term, pre, sent_ms, granted, highest_term, wait_ms):
            answer = "yes" if granted else f"no (term {highest_term}, wait {wait_ms})"
            return f"{'pre-vote' if pre else 'vote'}@{sent_ms} {election}={term} {answer}"
        case Resignation(election, term, reason, successor):
            return f"resigned {election}={term} ({reason}){f' for {successor}' if successor else ''}"
        case Orders():
            return describe_orders(message)


def describe_orders(orders: Orders) -> str:
    words = [*(["paused"] if orders.pause else []), *(f"{node} drained" for node in orders.drained)]
    return f"orders {orders.version} of {orders.origin}: {', '.join(words) or 'none'}"


def describe_standing(standing: Standing) -> str:
    fit = "fit" if standing.fit else "unfit"
    warm = "warm" if standing.warm else "cold"
    return f"{standing.election} {fit} {warm} {standing.term}.{standing.generation}"


def describe_event(event: Event) -> str:
    match event:
        case MessageReceived(sender, message):
            return f"{sender}: {describe_message(message)}"
        case DeadlineReached():
            return "deadline"
        case VotePersisted(election, term):
            return f"vote persisted {election}={term}"
        case StandingChanged(standing):
            return f"standing {describe_standing(standing)}"
        case PrimedChanged(instances):
            return f"primed {len(instances)}"
        case ServingStopped(election, term):
            return f"stopped {election}={term}"
        case ResignationRequested(election, reason, successor):
            return f"asked to resign {election} ({reason}){f' for {successor}' if successor else ''}"
        case OrdersGiven(orders):
            return f"given {describe_orders(orders)}"
        case OrdersPersisted(orders, written):
            return f"{'persisted' if written else 'could not write'} {describe_orders(orders)}"
        case SuspensionNoticed(asleep_ms):
            return f"slept {asleep_ms}"


def describe_action(action: Action) -> str:
    match action:
        case Send(to, message):
            return f"send {to}: {describe_message(message)}"
        case PersistVote(election, term, vote):
            return f"persist {election}={term} for {vote}"
        case PersistOrders(orders):
            return f"persist {describe_orders(orders)}"
        case StartServing(election, term, until_ms):
            return f"start {election}={term} until {until_ms}"
        case ExtendServing(election, term, until_ms):
            return f"extend {election}={term} until {until_ms}"
        case StopServing(election, term, cause, _, at_once):
            return f"stop {election}={term} {cause}{' at once' if at_once else ''}"
        case FollowLeader(election, leader, _):
            return f"follow {election}: {leader or 'nobody'}"
        case AnnounceAgain(election, peer):
            return f"announce {election} again: {peer} is back"


def describe_actions(actions: Iterable[Action]) -> list[str]:
    """Describe actions in their order; one message to several peers in a row is one line."""
    lines: list[str] = []
    receivers: list[str] = []
    last: Message | None = None
    for action in actions:
        if isinstance(action, Send) and action.message is last:
            receivers.append(action.to)
            lines[-1] = f"send {','.join(receivers)}: {describe_message(action.message)}"
            continue
        lines.append(describe_action(action))
        last, receivers = (action.message, [action.to]) if isinstance(action, Send) else (None, [])
    return lines


def roles(node: Node) -> str:
    """Return each election's role and term: `L7 p3`."""
    return " ".join(f"{ROLE_LETTERS[one.role.value]}{one.term:<4}" for one in node.elections.values())


def step_line(now_us: int, host: Host, event: Event, actions: list[Action]) -> str:
    assert host.core is not None, "only who runs takes steps"
    done = "; ".join(describe_actions(actions))
    head = f"{now_us / 1e6:12.6f} {host.name:<4} {roles(host.core)}|{host.now_ms():>13} "
    return f"{head}{describe_event(event):<48} {'-> ' + done if done else ''}".rstrip()


def fault_line(now_us: int, fault: str, detail: str) -> str:
    return f"{now_us / 1e6:12.6f} **** {fault} {detail}".rstrip()


def commit() -> str:
    """Return the commit of the tree that is tested, as far as it is known."""
    here = Path(__file__).parent
    try:
        done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def write_failure(command: str, failure: str, lines: Iterable[str]) -> Path:
    """Write what is needed to see the failure again; return the file's path."""
    REPORTS.mkdir(exist_ok=True)
    path = REPORTS / (command.split("--seed ")[1].replace(" --", "-").replace(" ", "-") + ".txt")
    body = "\n".join(lines)
    path.write_text(f"command: {command}\ncommit: {commit()}\nfailure: {failure}\n\n{body}\n")
    return path
