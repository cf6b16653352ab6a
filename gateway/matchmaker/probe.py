"""Probe: is the collector there, and is it still the same process? Asked of its own event loop.

Rule: one connection, one question, one deadline; every way to fail has a name, which is a metric's label.
"""

import enum
import errno
import os
import socket

import trio

from gateway.config.settings import Endpoint
from gateway.wire.cedar import parse_instance_untrusted, query_instance_request
from gateway.wire.errors import Malformed

ANSWER_BYTES_MAX = 4_096  # the answer has 21; a stranger's first packet is enough to see that he is one


class ProbeReason(enum.StrEnum):
    """Why a collector did not answer. Stable names: they are metric labels."""

    REFUSED = "refused"  # nobody listens: condor_shared_port is down
    UNREACHABLE = "unreachable"  # no route, no host, no permission
    TIMED_OUT = "timed-out"  # dead, hung or cut off; also a collector that is busy for longer than the deadline
    CLOSED = "closed"  # condor_shared_port is up, the collector behind it is not
    MALFORMED = "malformed"  # somebody else listens there


class ProbeFailed(Exception):  # noqa: N818 (an outcome, not an error of this program)
    """The collector at an endpoint did not answer with its instance id. `detail` is for a log."""

    def __init__(self, reason: ProbeReason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason
        self.detail = detail


async def collector_instance(endpoint: Endpoint, *, timeout_ms: int) -> str:
    """Return the instance id of the collector at `endpoint`: 16 digits, constant for the life of its process.

    Needs no credentials: DC_QUERY_INSTANCE is registered ALLOW (src/condor_daemon_core.V6/daemon_core_main.cpp).
    `endpoint.host` is an address literal; no name is looked up. `timeout_ms` is for the whole exchange.

    Raises:
        ProbeFailed: with its reason. Nothing else, whatever the other side does.
    """
    assert timeout_ms > 0, f"a probe needs time to be answered: timeout_ms = {timeout_ms}"
    try:
        with trio.fail_after(timeout_ms / 1000):
            return await _ask(endpoint)
    except trio.TooSlowError:
        raise ProbeFailed(ProbeReason.TIMED_OUT, f"{endpoint} gave no answer within {timeout_ms} ms") from None
    except Malformed as error:
        raise ProbeFailed(ProbeReason.MALFORMED, f"{endpoint} is no collector: {error}") from None
    except OSError as error:
        raise ProbeFailed(_reason(error), f"{endpoint}: {error.strerror or error}") from None


def _reason(error: OSError) -> ProbeReason:
    match error.errno:
        case errno.ECONNREFUSED:
            return ProbeReason.REFUSED
        case errno.ECONNRESET | errno.EPIPE | errno.ECONNABORTED:
            return ProbeReason.CLOSED
        case errno.ETIMEDOUT:
            return ProbeReason.TIMED_OUT
    return ProbeReason.UNREACHABLE


async def _ask(endpoint: Endpoint) -> str:
    """Ask on a plain socket: each of trio's own calls lets the loop turn, and this is asked ten times a second."""
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as sock:
        error = sock.connect_ex((endpoint.host, endpoint.port))
        if error == errno.EINPROGRESS:
            await trio.lowlevel.wait_writable(sock)
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))
        request = memoryview(query_instance_request())
        while request:
            try:
                request = request[sock.send(request, socket.MSG_NOSIGNAL) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(sock)
        answer = b""
        while len(answer) < ANSWER_BYTES_MAX:
            await trio.lowlevel.wait_readable(sock)
            try:
                received = sock.recv(ANSWER_BYTES_MAX)
            except BlockingIOError:
                continue
            if not received:
                break
            answer += received
            if (instance := parse_instance_untrusted(answer)) is not None:
                return instance
    raise ProbeFailed(ProbeReason.CLOSED, f"{endpoint} hung up after {len(answer)} bytes: the collector is down")
