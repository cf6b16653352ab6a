"""The child processes that the configuration asks for, as control starts them. Each answers to what its own rights are.

Rule: none of them is needed: a node without them elects, holds and forwards as ever.
"""

from functools import partial
from pathlib import Path

import msgspec

from gateway.config.settings import Peer, Settings
from gateway.console.admin import serve_client
from gateway.console.child import console_child
from gateway.console.herald import Charge
from gateway.control.commands import Commands, Level
from gateway.control.offspring import Offspring, python_module


def make_children(settings: Settings, me: Peer, commands: Commands, since: int) -> list[Offspring]:
    """Return the children of this node.

    Args:
        settings: the configuration.
        me: this node.
        commands: what they may ask.
        since: the number of the newest event before this process: a herald without a memory begins there.
    """
    children = [_herald(settings, me, commands, since)] if settings.notify else []
    return children if (console := console_child(settings, me, commands)) is None else [*children, console]


def _herald(settings: Settings, me: Peer, commands: Commands, since: int) -> Offspring:
    charge = Charge(
        cluster=settings.cluster,
        node=me.name,
        state=str(Path(settings.state_dir) / "herald"),
        commands=settings.notify.commands,
        fifo=settings.notify.fifo,
        user=settings.notify.user,
        timeout_ms=settings.notify.timeout_ms,
        since=since,
        log=settings.log_format,
    )
    # Left to end by itself: a command that it runs has begun to tell somebody of something.
    return Offspring(
        "herald",
        python_module("gateway.console.herald"),
        partial(serve_client, commands=commands, level=Level.USER),
        charge=msgspec.json.encode(charge),  # the arguments of a command may be somebody's secret
        end_ms=None,
    )
