"""Probe: is the collector there, and is it still the same process? Asked of its own event loop.

Rule: one connection, one question, one deadline; every way to fail has a name, which is a metric's label.
"""

import contextlib
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


_REQUESTS = {shared_port: query_instance_request(shared_port=shared_port) for shared_port in (False, True)}


class Exchange:
    """One question to the collector at `endpoint`, on a socket that never waits. Who has it waits, with a deadline.

    The answer is an instance id: 16 digits, constant for the life of the collector's process. It takes no credentials:
    DC_QUERY_INSTANCE is registered ALLOW (src/condor_daemon_core.V6/daemon_core_main.cpp). `endpoint.host` is an
    address literal; no name is looked up. `shared_port`: the port is condor_shared_port's, and the collector behind it.

    Raises:
        ProbeFailed: this host has no socket for it.
    """

    def __init__(self, endpoint: Endpoint, *, shared_port: bool = True) -> None:
        self._endpoint = endpoint
        family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
        try:
            self._socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except OSError as error:  # no descriptor is left
            raise ProbeFailed(_reason(error), f"{endpoint}: {error.strerror}") from None
        self._refusal = self._socket.connect_ex((endpoint.host, endpoint.port))
        self._request = memoryview(_REQUESTS[shared_port])
        self._answer = b""

    def fileno(self) -> int:
        """Return the socket's descriptor, to be waited for."""
        return self._socket.fileno()

    @property
    def asked(self) -> bool:
        """Whether the question has left: wait for readability then, else for writability."""
        return not self._request

    def advance(self) -> str | None:
        """Go on as far as possible now; return the instance id, None where there is something to wait for.

        Raises:
            ProbeFailed: with its reason. Nothing else, whatever the other side does.
        """
        try:
            return self._advance()
        except BlockingIOError:
            return None
        except Malformed as error:
            raise ProbeFailed(ProbeReason.MALFORMED, f"{self._endpoint} is no collector: {error}") from None
        except OSError as error:
            raise ProbeFailed(_reason(error), f"{self._endpoint}: {error.strerror or error}") from None

    def _advance(self) -> str | None:
        if self._refusal not in (0, errno.EINPROGRESS):
            raise OSError(self._refusal, os.strerror(self._refusal))
        if self._request:
            while self._request:  # a host's own collector has accepted already, whatever connect said
                self._request = self._request[self._socket.send(self._request, socket.MSG_NOSIGNAL) :]
            return None  # no collector answers in that moment: to look costs more than to wait
        while len(self._answer) < ANSWER_BYTES_MAX:
            received = self._socket.recv(ANSWER_BYTES_MAX)
            if not received:
                break
            self._answer += received
            if (instance := parse_instance_untrusted(self._answer)) is not None:
                return instance
        detail = f"{self._endpoint} hung up after {len(self._answer)} bytes: the collector is down"
        raise ProbeFailed(ProbeReason.CLOSED, detail)

    def late(self, after_ms: int) -> ProbeFailed:
        """Return the failure of an exchange that has taken too long."""
        return ProbeFailed(ProbeReason.TIMED_OUT, f"{self._endpoint} gave no answer within {after_ms} ms")

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


async def collector_instance(endpoint: Endpoint, *, timeout_ms: int, shared_port: bool = True) -> str:
    """Return what an `Exchange` gives, within `timeout_ms` for the whole of it.

    Raises:
        ProbeFailed: as `Exchange.advance`.
    """
    assert timeout_ms > 0, f"a probe needs time to be answered: timeout_ms = {timeout_ms}"
    with contextlib.closing(Exchange(endpoint, shared_port=shared_port)) as exchange:
        with trio.move_on_after(timeout_ms / 1000):
            while (instance := exchange.advance()) is None:  # ends with an answer, a failure, or the deadline
                wait = trio.lowlevel.wait_readable if exchange.asked else trio.lowlevel.wait_writable
                await wait(exchange)
            return instance
        raise exchange.late(timeout_ms)


def _reason(error: OSError) -> ProbeReason:
    match error.errno:
        case errno.ECONNREFUSED:
            return ProbeReason.REFUSED
        case errno.ECONNRESET | errno.EPIPE | errno.ECONNABORTED:
            return ProbeReason.CLOSED
        case errno.ETIMEDOUT:
            return ProbeReason.TIMED_OUT
    return ProbeReason.UNREACHABLE
