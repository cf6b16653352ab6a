"""The console process: status page, health, metrics and stats sockets, apart from what they tell of.

    browsers, Prometheus ──HTTP──▶ web ──▶ observer ──▶ asker ──socket pair──▶ control
    HAProxy's tools ──stats sockets──────────────────────▲

Rule: it opens what needs root, then drops all rights, and only then listens to anybody. It ends with its socket pair.
"""

import contextlib
import ctypes
import importlib
import os
import pwd
import resource
import signal
import socket
import sys
import time
from functools import partial
from typing import Final

import hypercorn.config
import msgspec
import structlog
import trio
from starlette.applications import Starlette

from gateway.config.settings import Console, Endpoint
from gateway.console import page
from gateway.console.child import Charge
from gateway.console.doorkeeper import Doorkeeper, TokenUnusable, read_token
from gateway.console.http_server import CONNECTIONS_MAX, CONNECTIONS_SOURCE_MAX, HttpServer
from gateway.console.logs import start_log, stop_log
from gateway.console.multiplex import Asker
from gateway.console.observer import Observer
from gateway.console.places import Places
from gateway.console.stats_socket import OpenSocket, open_stats, serve_stats
from gateway.console.web import STREAM_PATHS, Web
from gateway.console.web_app import application
from gateway.console.web_guard import HEADER_BYTES_MAX, WebGuard
from gateway.console.web_health import WebHealth, is_health
from gateway.console.web_orders import WebOrders

BACKLOG: Final = 64
DESCRIPTORS_MAX: Final = 512  # HTTP, stats sockets and what Python needs: a crowd is let in no further
MEMORY_BYTES_MAX: Final = 1 << 30  # of data; it uses 60 MB
BIND_S_MAX: Final = 3.0  # a console that is being replaced closes its socket within 0.1 s
BIND_AGAIN_S: Final = 10.0  # the address may come later
IDLE_S: Final = 5.0  # a connection without a request, or one whose head has not come to its end
UNREAD_MS_MAX: Final = 30_000  # of what was sent; whoever does not take it has gone
LATE_IMPORTS: Final = ("anyio._backends._trio", "encodings.idna", "stringprep", "traceback", "http.cookies")
PR_SET_NO_NEW_PRIVS: Final = 38  # linux/prctl.h


def main(arguments: list[str]) -> int:
    """Run the console: its charge as JSON, and the number of its end of the socket pair."""
    charge = msgspec.json.decode(arguments[0], type=Charge)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's goes to the guard, which decides
    with socket.socket(fileno=int(arguments[1])) as node:
        start_log(charge.log, charge.node)
        try:
            return _run(charge, node)
        finally:
            stop_log()


def _run(charge: Charge, node: socket.socket) -> int:
    log = structlog.get_logger()
    token, listening = "", None
    if charge.console is not None:
        try:
            token = read_token(charge.console.token_file) if charge.console.token_file else ""
        except TokenUnusable as error:
            log.error("console.read-only", reason=str(error))
        listening = listen(charge.console.bind, BIND_S_MAX)
    opened = open_stats(charge.stats_sockets)
    # What is imported or read when it is first used is not to be had any more once all rights are dropped.
    page.load()
    for name in LATE_IMPORTS:
        importlib.import_module(name)
    try:
        drop_rights(charge.console.user if charge.console is not None else Console().user)
    except KeyError as error:
        log.error("console.not-started", reason=f"there is no such user: {error}")
        return 1
    trio.run(partial(_serve, charge, node, token, listening, opened), strict_exception_groups=True)
    return 0


def listen(at: Endpoint, within_s: float) -> socket.socket | None:
    """Open the page's port; None where it can't be had in time, which is in the log."""
    until_s = time.monotonic() + within_s
    family = socket.AF_INET6 if ":" in at.host else socket.AF_INET
    while True:  # ends with `until_s`
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Handed down to every connection.
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_MS_MAX)
            listening.bind((at.host, at.port))
            listening.listen(BACKLOG)
        except OSError as error:
            listening.close()
            if time.monotonic() >= until_s:
                structlog.get_logger().error("console.unavailable", bind=str(at), reason=error.strerror)
                return None
            time.sleep(0.05)
        else:
            listening.setblocking(False)
            port = listening.getsockname()[1]
            structlog.get_logger().info("console.listening", host=at.host, port=port)
            return listening


def drop_rights(user: str) -> None:
    """Become `user` for good, with limits.

    Raises:
        KeyError: there is no such user.
    """
    for what, most in (
        (resource.RLIMIT_NOFILE, DESCRIPTORS_MAX),
        (resource.RLIMIT_DATA, MEMORY_BYTES_MAX),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))
    if os.geteuid() == 0:
        owner = pwd.getpwnam(user)
        os.setgroups([])
        os.setresgid(owner.pw_gid, owner.pw_gid, owner.pw_gid)
        os.setresuid(owner.pw_uid, owner.pw_uid, owner.pw_uid)
    ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


async def _serve(
    charge: Charge, node: socket.socket, token: str, listening: socket.socket | None, opened: tuple[OpenSocket, ...]
) -> None:
    asker = Asker(trio.SocketStream(trio.socket.from_stdlib_socket(node)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_run_asker, asker, nursery.cancel_scope)
        if opened:
            nursery.start_soon(serve_stats, opened, asker.ask)
        if charge.console is not None:
            observer = Observer(asker)
            nursery.start_soon(observer.run)
            guarded = make_application(charge, charge.console, asker, observer, Doorkeeper(token))
            nursery.start_soon(_serve_http, guarded, charge.console, listening)


async def _run_asker(asker: Asker, serving: trio.CancelScope) -> None:
    await asker.run()
    serving.cancel()  # the node has gone, and this process with it


def make_application(
    charge: Charge, console: Console, asker: Asker, observer: Observer, doorkeeper: Doorkeeper
) -> WebGuard:
    """Return the whole web application."""
    orders = WebOrders(asker, doorkeeper)
    web = Web(observer, orders.who)
    routes = [*web.routes(), *WebHealth(observer).routes(), *orders.routes(web)]
    inner: Starlette = application(routes)
    names = {"localhost", charge.node, socket.gethostname(), *console.hosts}
    return WebGuard(
        inner,
        hosts={name.lower().rstrip(".") for name in names if name},
        open_to_all=is_health,
        streams=STREAM_PATHS,
    )


async def _serve_http(guarded: WebGuard, console: Console, listening: socket.socket | None) -> None:
    while listening is None:
        await trio.sleep(BIND_AGAIN_S)
        listening = listen(console.bind, 0.0)
    places = Places(CONNECTIONS_MAX, CONNECTIONS_SOURCE_MAX)
    server = HttpServer(guarded, http_config(), places)
    await server.run(trio.SocketListener(trio.socket.from_stdlib_socket(listening)))


def http_config() -> hypercorn.config.Config:
    """Return how hypercorn serves a connection."""
    config = hypercorn.config.Config()
    config.h11_max_incomplete_size = HEADER_BYTES_MAX  # of a request whose head has not come to its end
    config.h11_pass_raw_headers = False
    config.keep_alive_timeout = IDLE_S
    config.read_timeout = None  # it would end streams, whose readers have nothing to say
    config.alpn_protocols = ["http/1.1"]
    config.include_server_header = False
    config.accesslog = config.errorlog = None
    return config


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main(sys.argv[1:]))
