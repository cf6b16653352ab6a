"""Values: one word of the file to one value. Each reader refuses with a sentence that says what to write.

Names take only what is safe in a log line, a file name and a metric label; addresses are literals.
"""

import functools
import ipaddress
import re
from collections.abc import Callable

import msgspec

from gateway.config.diagnostics import did_you_mean, listing, quote
from gateway.config.schema import Argument, Kind
from gateway.config.settings import Endpoint, Protocol

NAME_CHARACTERS_MAX = 64  # names go into every heartbeat's associated data and every log line
PATH_CHARACTERS_MAX = 1_024
TEXT_CHARACTERS_MAX = 1_024
ACCOUNT_CHARACTERS_MAX = 32  # what useradd takes
HOST_CHARACTERS_MAX = 253  # of a DNS name
DEVICE_CHARACTERS_MAX = 15  # IFNAMSIZ of Linux, less the final zero
PORT_MAX = 65_535

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_ACCOUNT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*\$?")
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*")
_OCTAL = re.compile(r"0?[0-7]{3}")
_PORTS = re.compile(r"[0-9]{1,5}-[0-9]{1,5}")  # HAProxy's way to bind several
_DIGITS = re.compile(r"[0-9]{1,12}")
_DURATION = re.compile(r"([0-9]{1,12})(us|ms|s|m|h|d)?")
UNITS = frozenset({"us", "ms", "s", "m", "h", "d"})
_UNIT_US = {"us": 1, "ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}


class Prefix(msgspec.Struct, frozen=True):
    """An address literal and the length of its network's prefix."""

    host: str
    length: int


class BindPoint(msgspec.Struct, frozen=True):
    """The name of an address section and a port of it."""

    address: str
    port: int


Value = str | int | bool | Endpoint | Prefix | BindPoint | frozenset[Protocol]


class Refused(ValueError):  # noqa: N818 (an answer to the operator, not a fault)
    """A word that is no value of its kind. The text is the rest of a diagnostic."""


def read_value(argument: Argument, text: str) -> Value:
    """Return the value of `text` as `argument` reads it; raise `Refused` with the reason and the fix."""
    return _READERS[argument.kind](argument, text)


def format_ms(time_ms: int) -> str:
    """Return a time as an operator would write it: `300ms`, `5s`, `15m`, `24h`."""
    for unit_ms, unit, least in ((3_600_000, "h", 1), (60_000, "m", 3), (1_000, "s", 1)):
        if time_ms % unit_ms == 0 and time_ms >= least * unit_ms:
            return f"{time_ms // unit_ms}{unit}"
    return f"{time_ms}ms"


def _name(_argument: Argument, text: str) -> str:
    if _NAME.fullmatch(text) is None:
        raise Refused(
            f"{quote(text)} is not a name: use letters, digits, '.', '_' and '-', and start with a letter or digit"
        )
    if len(text) > NAME_CHARACTERS_MAX:
        raise Refused(f"{quote(text)} is longer than {NAME_CHARACTERS_MAX} characters")
    return text


def _choice(argument: Argument, text: str) -> str:
    if text in argument.choices:
        return text
    if text in argument.refused:
        raise Refused(f"{quote(text)} {argument.refused[text]}")
    expected = listing(argument.choices)
    raise Refused(f"must be {expected}, not {quote(text)}{did_you_mean(text, argument.choices)}")


def _path(_argument: Argument, text: str) -> str:
    if not text.startswith("/"):
        raise Refused(f"{quote(text)} is not an absolute path: start it with '/'")
    if len(text) > PATH_CHARACTERS_MAX:
        raise Refused(f"path is longer than {PATH_CHARACTERS_MAX} characters")
    if not text.isprintable():
        raise Refused(f"{quote(text)} holds a character that cannot be printed: remove it")
    return text


def _duration(argument: Argument, text: str) -> int:
    match = _DURATION.fullmatch(text)
    if match is None:
        raise Refused(
            f"{quote(text)} is not a time: write a whole number and us, ms, s, m, h or d; a bare number is milliseconds"
        )
    time_ms, rest_us = divmod(int(match[1]) * _UNIT_US[match[2] or "ms"], 1_000)
    if rest_us:
        raise Refused(f"{quote(text)} is not a whole number of milliseconds: write {quote(f'{time_ms + 1}ms')}")
    unit = " (a bare number is milliseconds)" if match[2] is None else ""
    if time_ms < argument.low:
        raise Refused(f"{quote(text)}{unit} is below {format_ms(argument.low)}: {argument.low_reason}")
    if time_ms > argument.high:
        raise Refused(f"{quote(text)}{unit} is above {format_ms(argument.high)}: {argument.high_reason}")
    return time_ms


def _count(argument: Argument, text: str) -> int:
    count = int(text) if _DIGITS.fullmatch(text) is not None else None
    if count is None or not argument.low <= count <= argument.high:
        why = "" if count is None else argument.low_reason if count < argument.low else argument.high_reason
        told = f"{quote(text)} is not a whole number from {argument.low} to {argument.high}"
        raise Refused(f"{told}: {why}" if why else told)
    return count


def _auto_count(argument: Argument, text: str) -> int:
    if text == "auto":
        return argument.auto
    if _DIGITS.fullmatch(text) is None:
        raise Refused(
            f"must be 'auto' or a whole number from {argument.low} to {argument.high}, not {quote(text)}"
            f"{did_you_mean(text, ('auto',))}"
        )
    return _count(argument, text)


def _endpoint(_argument: Argument, text: str) -> Endpoint:
    host, colon, port = text.rpartition(":")
    if not colon or (":" in host and not host.startswith("[")):
        if ":" in text:
            raise Refused(f"{quote(text)} needs brackets around its IPv6 address, as in '[fd00::1]:9619'")
        raise Refused(f"{quote(text)} has no port: write ADDRESS:PORT, as in '10.0.0.1:9619'")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    return Endpoint(str(_host(host)), _port(port))


def _prefix(_argument: Argument, text: str) -> Prefix:
    host, slash, length = text.partition("/")
    address = _host(host)
    if not slash:
        raise Refused(f"{quote(text)} has no prefix length: write {quote(f'{text}/{address.max_prefixlen}')}")
    if _DIGITS.fullmatch(length) is None or not 1 <= int(length) <= address.max_prefixlen:
        raise Refused(f"prefix length {quote(length)} is not a whole number from 1 to {address.max_prefixlen}")
    return Prefix(str(address), int(length))


def _device(_argument: Argument, text: str) -> str:
    # What Linux takes (dev_valid_name): no blank, no '/', no ':', not '.' or '..'.
    if len(text) > DEVICE_CHARACTERS_MAX or text in {"", ".", ".."} or not text.isprintable() or {*text} & {*" /:"}:
        raise Refused(
            f"{quote(text)} is not the name of an interface: at most {DEVICE_CHARACTERS_MAX} characters, "
            "no blank, '/' or ':'"
        )
    return text


def _bind(argument: Argument, text: str) -> BindPoint:
    name, colon, port = text.rpartition(":")
    if not colon:
        raise Refused(f"{quote(text)} has no port: write {quote(f'{text}:9618')}")
    if name in {"", "*"} or _is_address(name.strip("[]")):
        raise Refused(f"{quote(text)}: bind the name of an address section, as in 'pool-vip:{port or 9618}'")
    return BindPoint(_name(argument, name), _port(port))


def _protocols(argument: Argument, text: str) -> frozenset[Protocol]:
    known = tuple(protocol.value for protocol in Protocol)
    for word in text.split(","):
        if word not in known:
            raise Refused(f"{quote(word)} is not a protocol: write {argument.kind.value}{did_you_mean(word, known)}")
    return frozenset(Protocol(word) for word in text.split(","))


def _mode(_argument: Argument, text: str) -> int:
    if _OCTAL.fullmatch(text) is None:
        raise Refused(f"{quote(text)} is not a mode: write three octal digits, as in '660' for owner and group")
    return int(text, 8)


def _account(_argument: Argument, text: str) -> str:
    if _ACCOUNT.fullmatch(text) is None or len(text) > ACCOUNT_CHARACTERS_MAX:
        raise Refused(f"{quote(text)} is not the name of a user or group")
    return text


def _text(_argument: Argument, text: str) -> str:
    if len(text) > TEXT_CHARACTERS_MAX:
        raise Refused(f"word is longer than {TEXT_CHARACTERS_MAX} characters")
    if not text.isprintable():
        raise Refused(f"{quote(text)} holds a character that cannot be printed: remove it")
    return text


def _listen(_argument: Argument, text: str) -> Endpoint:
    """Return where to listen: as HAProxy writes it, `*` or nothing before the colon is every IPv4 address."""
    host, colon, port = text.rpartition(":")
    if colon and host in {"", "*", "0.0.0.0"}:
        return Endpoint("0.0.0.0", _port(port))
    if colon and host in {"[::]", "::"}:
        return Endpoint("::", _port(port))
    if host == "localhost":
        raise Refused(f"{quote(text)} is not an IP address: write '127.0.0.1:{port}'")
    return _endpoint(_argument, text)


def _host_name(_argument: Argument, text: str) -> str:
    name = text.removesuffix(".")
    if text.startswith(("http://", "https://")) or "/" in text:
        raise Refused(f"{quote(text)} is an URL: write the host alone")
    if ":" in text and not _is_address(text.strip("[]")):
        raise Refused(f"{quote(text)} has a port: write the host alone")
    if not _is_address(text.strip("[]")) and (_HOST.fullmatch(name) is None or len(name) > HOST_CHARACTERS_MAX):
        raise Refused(f"{quote(text)} is not the name of a host")
    return name.lower()


def _port(text: str) -> int:
    if _DIGITS.fullmatch(text) is None or not 1 <= int(text) <= PORT_MAX:
        several = ": write a line for each port" if _PORTS.fullmatch(text) is not None else ""
        raise Refused(f"port {quote(text)} is not a whole number from 1 to {PORT_MAX}{several}")
    return int(text)


@functools.lru_cache(maxsize=1_024)
def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _is_address(text: str) -> bool:
    return _address(text) is not None


def _host(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return the address of a host: one that a single host can have and others can send to."""
    address = _address(text)
    if address is None or "%" in text:
        raise Refused(
            f"{quote(text)} is not an IP address: names are not looked up here, because DNS may be what is down"
        )
    if address.is_unspecified or address.is_multicast or address == ipaddress.IPv4Address(0xFFFFFFFF):
        raise Refused(f"{quote(text)} is not the address of one host")
    return address


_READERS: dict[Kind, Callable[[Argument, str], Value]] = {
    Kind.NAME: _name,
    Kind.CHOICE: _choice,
    Kind.PATH: _path,
    Kind.DURATION: _duration,
    Kind.COUNT: _count,
    Kind.AUTO_COUNT: _auto_count,
    Kind.ENDPOINT: _endpoint,
    Kind.PREFIX: _prefix,
    Kind.DEVICE: _device,
    Kind.BIND: _bind,
    Kind.PROTOCOLS: _protocols,
    Kind.MODE: _mode,
    Kind.ACCOUNT: _account,
    Kind.TEXT: _text,
    Kind.LISTEN: _listen,
    Kind.HOST: _host_name,
}
