"""The console as control sees it: a child process with a charge, and what it may ask. Nothing heavy is imported here.

Rule: the console's rights are fixed when it is started: who takes it over can ask no more than its sockets allow.
"""

from functools import partial

import msgspec

from gateway.config.settings import Console, LogFormat, Peer, Settings, StatsSocket
from gateway.console.multiplex import serve_multiplexed
from gateway.control.commands import Commands, Level
from gateway.control.offspring import Offspring, python_module


class Charge(msgspec.Struct, frozen=True, kw_only=True):
    """What a console is started with, as JSON on its command line: no secrets."""

    cluster: str
    node: str
    log: LogFormat
    console: Console | None
    stats_sockets: tuple[StatsSocket, ...]


def console_child(settings: Settings, me: Peer, commands: Commands) -> Offspring | None:
    """Return the console of this node; None where the configuration asks for none."""
    if settings.console is None and not settings.stats_sockets:
        return None
    charge = Charge(
        cluster=settings.cluster,
        node=me.name,
        log=settings.log_format,
        console=settings.console,
        stats_sockets=settings.stats_sockets,
    )
    argv = python_module("gateway.console.process", msgspec.json.encode(charge).decode())
    return Offspring("console", argv, partial(serve_multiplexed, commands=commands, level_max=level_max(settings)))


def level_max(settings: Settings) -> Level:
    """Return the most that the console may ask: what its most powerful socket or page is for."""
    levels = [Level.USER, *(Level.of(one.level) for one in settings.stats_sockets)]
    if settings.console is not None and settings.console.token_file:
        levels.append(Level.ADMIN)
    return max(levels)
