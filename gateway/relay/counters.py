"""Counters of one listener. Plain attributes, because the relay counts on every read; gauges are asked for."""

from gateway.relay.messages import ListenerStats

_COUNTED = (
    "connections_total",
    "held_total",
    "hold_expired_total",
    "refused_total",
    "accept_paused_total",
    "connect_failed_total",
    "reset_at_switch_total",
    "first_byte_missed_total",
    "bytes_to_server_total",
    "bytes_to_client_total",
    "flows_total",
    "datagrams_to_server_total",
    "datagrams_to_client_total",
    "datagrams_dropped_total",
    "unreachable_total",
)


class Counters:
    """What has happened at one listener since the start of the relay. The names are those of `ListenerStats`."""

    __slots__ = _COUNTED

    def __init__(self) -> None:
        self.connections_total = 0
        self.held_total = 0
        self.hold_expired_total = 0
        self.refused_total = 0
        self.accept_paused_total = 0
        self.connect_failed_total = 0
        self.reset_at_switch_total = 0
        self.first_byte_missed_total = 0
        self.bytes_to_server_total = 0
        self.bytes_to_client_total = 0
        self.flows_total = 0
        self.datagrams_to_server_total = 0
        self.datagrams_to_client_total = 0
        self.datagrams_dropped_total = 0
        self.unreachable_total = 0

    def stats(self, name: str, *, connections_now: int, held_now: int, flows_now: int) -> ListenerStats:
        """Return the figures of this moment as a value."""
        counted = {field: getattr(self, field) for field in _COUNTED}
        return ListenerStats(
            name=name, connections_now=connections_now, held_now=held_now, flows_now=flows_now, **counted
        )
