"""Canonical: settings to the file that says all of them, defaults included. What `load` reads of it is equal.

A line has a place (`peers lan heartbeat`), by which two configurations are compared, and a value.
"""

import re
from collections.abc import Iterable

import msgspec

from gateway.config.settings import Address, Backend, Bind, Console, Frontend, Peer, Server, Settings, StatsSocket
from gateway.config.values import format_ms

_PLAIN = re.compile(r"[A-Za-z0-9_./:,@%+=*\[\]-]+")
ON, OFF = "on", "off"


class Line(msgspec.Struct, frozen=True):
    """One line. `key` tells it from others of its keyword; `text` is "" where nothing is to be written for `value`."""

    keyword: str
    key: str
    value: str
    text: str


class Part(msgspec.Struct, frozen=True):
    """One section."""

    kind: str
    name: str
    lines: tuple[Line, ...]

    @property
    def header(self) -> str:
        """Return the line with which the section begins."""
        return f"{self.kind} {self.name}".rstrip()


def canonical(settings: Settings) -> tuple[Part, ...]:
    """Return every section of `settings`, with a line for everything that can be said in it."""
    parts = [_global(settings), _peers(settings)]
    parts += [_address(address) for address in settings.addresses]
    parts += [_frontend(frontend) for frontend in settings.frontends]
    parts += [_backend(backend) for backend in settings.backends]
    if settings.console is not None:
        parts.insert(1, _console(settings.console))
    return tuple(parts)


def render(parts: Iterable[Part]) -> str:
    """Return the text of a file."""
    return "\n".join(
        "".join(f"{text}\n" for text in (part.header, *(f"    {line.text}" for line in part.lines if line.text)))
        for part in parts
    )


def written(word: str) -> str:
    """Return a word as it is written, in quotes where it needs them."""
    if _PLAIN.fullmatch(word):
        return word
    if "'" not in word:
        return f"'{word}'"
    escaped = "".join(f"\\{character}" if character in '\\"$' else character for character in word)
    return f'"{escaped}"'


def _line(keyword: str, *words: str) -> Line:
    """Return a line that stands once, with words that may need quotes."""
    value = " ".join(written(word) for word in words)
    return Line(keyword, "", value, f"{keyword} {value}")


def _maybe(keyword: str, word: str) -> Line:
    """Return a line that stands where there is a word."""
    return _line(keyword, word) if word else Line(keyword, "", "", "")


def _keyed(keyword: str, key: str, *words: str) -> Line:
    """Return a line that is told from others by its first word."""
    value = " ".join(words)
    return Line(keyword, key, value, " ".join(word for word in (keyword, key, value) if word))


def _flag(keyword: str, *, said: bool) -> Line:
    return Line(keyword, "", ON if said else OFF, keyword if said else "")


def _time(keyword: str, time_ms: int) -> Line:
    return _line(keyword, format_ms(time_ms))


def _described(text: str) -> Line:
    return Line("description", "", text, f"description {written(text)}") if text else Line("description", "", "", "")


def _global(settings: Settings) -> Part:
    notify = settings.notify
    commands = (" ".join(written(word) for word in command) for command in notify.commands)
    told = (
        *(_keyed("notify command", command) for command in commands),
        _maybe("notify fifo", notify.fifo),
        *((_line("notify user", notify.user),) if notify else ()),
        *((_time("notify timeout", notify.timeout_ms),) if notify.commands else ()),
    )
    workers = str(settings.relay_workers or "auto")
    return Part(
        "global",
        "",
        (
            _line("cluster", settings.cluster),
            _described(settings.description),
            _line("key-file", settings.key_file),
            _line("state-dir", settings.state_dir),
            Line("log", "", f"stdout format {settings.log_format}", f"log stdout format {settings.log_format}"),
            _line("relay-workers", workers),
            *(_stats_socket(socket) for socket in settings.stats_sockets),
            *told,
        ),
    )


def _stats_socket(socket: StatsSocket) -> Line:
    owner = [f"user {socket.user}"] if socket.user else []
    owner += [f"group {socket.group}"] if socket.group else []
    return _keyed("stats socket", written(socket.path), f"mode {socket.mode:03o}", *owner, f"level {socket.level}")


def _console(console: Console) -> Part:
    return Part(
        "console",
        "",
        (
            _line("bind", str(console.bind)),
            _maybe("admin token-file", console.token_file),
            _line("user", console.user),
            *(_keyed("allow-host", host) for host in console.hosts),
        ),
    )


def _peers(settings: Settings) -> Part:
    return Part(
        "peers",
        settings.peers_name,
        (
            _time("heartbeat", settings.heartbeat_ms),
            _time("lease", settings.lease_ms),
            _line("on-partition", settings.on_partition),
            _time("guard-dead-time", settings.guard_dead_ms),
            *(_peer(peer) for peer in settings.peers),
        ),
    )


def _peer(peer: Peer) -> Line:
    return _keyed("peer", peer.name, str(peer.endpoint), *sorted(peer.roles))


def _address(address: Address) -> Part:
    ip = f"{address.ip}/{address.prefix_length} dev {written(address.device)}"
    return Part("address", address.name, (Line("ip", "", ip, f"ip {ip}"), _line("holder", *address.holders)))


def _frontend(frontend: Frontend) -> Part:
    return Part(
        "frontend",
        frontend.name,
        (
            _described(frontend.description),
            *(_bind(bind) for bind in frontend.binds),
            _line("default_backend", frontend.backend),
            _flag("option tcplog", said=frontend.tcplog),
            _line("maxconn", str(frontend.maxconn)),
            _line("maxconn-per-source", str(frontend.maxconn_source)),
            _line("rate-per-source", str(frontend.rate_source)),
            _time("timeout client", frontend.client_ms),
            _time("timeout client-hello", frontend.hello_ms),
        ),
    )


def _bind(bind: Bind) -> Line:
    return _keyed("bind", f"{bind.address}:{bind.port}", f"proto {','.join(sorted(bind.protocols))}")


def _backend(backend: Backend) -> Part:
    return Part(
        "backend",
        backend.name,
        (
            _described(backend.description),
            _line("balance", "elected"),
            _line("forward", backend.forward, *(("transparent",) if backend.transparent else ())),
            _flag("option condor-check", said=backend.condor_check),
            _time("timeout connect", backend.connect_ms),
            _time("timeout queue", backend.queue_ms),
            _time("timeout drain", backend.drain_ms),
            *(_server(server) for server in backend.servers),
            Line("order of servers", "", " ".join(server.name for server in backend.servers), ""),
            Line(
                "negotiator",
                "",
                "on-elected" if backend.negotiator_on_elected else OFF,
                "negotiator on-elected" if backend.negotiator_on_elected else "",
            ),
            _line("warm-standby", ON if backend.warm_standby else OFF),
            _flag("replicate accounting", said=backend.replicate_accounting),
            *(_keyed("replicate file", written(path)) for path in backend.replicate_files),
            _line("advertise", ON if backend.advertise else OFF),
        ),
    )


def _server(server: Server) -> Line:
    return _keyed(
        "server",
        server.name,
        str(server.endpoint),
        *(("backup",) if server.backup else ()),
        "check" if server.check else "no-check",
        f"inter {format_ms(server.inter_ms)} fall {server.fall} rise {server.rise}",
    )
