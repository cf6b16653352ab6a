"""Prober: asks this host's collector again and again, by plain calls of the pump; one wake-up for each answer.

Rule: one question at a time. The next is asked `every_ms` after the last was begun, or at once where that took longer.
"""

from collections.abc import Callable

from gateway.config.settings import Endpoint
from gateway.control.pump import Pump
from gateway.kernel.alarm import Alarm
from gateway.kernel.clock import boot_ms
from gateway.matchmaker.probe import Exchange, ProbeFailed


class Prober:
    """Probes `endpoint` while it is open (a context manager).

    Args:
        endpoint: the collector's.
        pump: calls us.
        every_ms: between two questions, and up to `lag_ms` more.
        lag_ms: how long a question that is due waits for a wake-up for something else.
        timeout_ms: for each.
        shared_port: the endpoint is condor_shared_port's.
        succeeded: called with the collector's instance id.
        failed: called with the failure.
    """

    def __init__(
        self,
        *,
        endpoint: Endpoint,
        pump: Pump,
        every_ms: int,
        lag_ms: int,
        timeout_ms: int,
        succeeded: Callable[[str], None],
        failed: Callable[[ProbeFailed], None],
        shared_port: bool = True,
    ) -> None:
        self._endpoint = endpoint
        self._pump = pump
        self._every_ms = every_ms
        self._lag_ms = lag_ms
        self._timeout_ms = timeout_ms
        self._succeeded = succeeded
        self._failed = failed
        self._shared_port = shared_port
        self._alarm = Alarm()
        self._exchange: Exchange | None = None
        self._waits_for_answer: bool | None = None  # the pump heeds the exchange: until it can be read, or written
        self._begun_ms = 0

    def __enter__(self) -> "Prober":
        self._alarm.set(boot_ms())
        self._pump.add(self._alarm, self._ring)
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        if not self._pump.closed:
            self._pump.remove(self._alarm)
        self._alarm.close()

    def wake(self) -> None:
        """Ask now if that is due. To be called at every wake-up for something else."""
        if self._exchange is None and boot_ms() >= self._begun_ms + self._every_ms:
            self._begin()

    def _ring(self) -> None:
        if self._exchange is None:
            self._begin()
        elif boot_ms() >= self._begun_ms + self._timeout_ms:  # else `wake` has begun it in this very turn
            late = self._exchange.late(self._timeout_ms)
            self._end()
            self._begin()  # before anything is said: that may be a wake-up for others, and come back here
            self._failed(late)

    def _begin(self) -> None:
        self._begun_ms = boot_ms()
        self._alarm.set(self._begun_ms + self._timeout_ms)
        try:
            self._exchange = Exchange(self._endpoint, shared_port=self._shared_port)
        except ProbeFailed as failure:
            self._finish()
            self._failed(failure)
        else:
            self._go_on()

    def _go_on(self) -> None:
        if self._exchange is None:  # the alarm has had its turn before it
            return
        try:
            instance = self._exchange.advance()
        except ProbeFailed as failure:
            self._finish()
            self._failed(failure)
            return
        if instance is None:
            self._wait(self._exchange)
            return
        self._finish()
        self._succeeded(instance)

    def _wait(self, exchange: Exchange) -> None:
        if self._waits_for_answer is exchange.asked:
            return
        if self._waits_for_answer is not None:
            self._pump.remove(exchange)
        self._waits_for_answer = exchange.asked
        self._pump.add(exchange, self._go_on, writable=not exchange.asked)

    def _finish(self) -> None:
        self._end()
        self._alarm.set(self._begun_ms + self._every_ms + self._lag_ms)

    def _end(self) -> None:
        if self._exchange is None:
            return
        if self._waits_for_answer is not None and not self._pump.closed:
            self._pump.remove(self._exchange)
        self._exchange.close()
        self._exchange, self._waits_for_answer = None, None
