"""Counters of one listener. Plain attributes, because the relay counts on every read; gauges are asked for."""

from gateway.relay.messages import ListenerStats

_COUNTED = tuple(field for field in ListenerStats.__struct_fields__ if field.endswith("_total"))


class Counters:
    """What has happened at one listener since the start of the relay. The names are those of `ListenerStats`."""

    __slots__ = _COUNTED

    accept_paused_total: int
    bytes_to_client_total: int
    bytes_to_server_total: int
    client_idle_total: int
    connect_failed_total: int
    connections_total: int
    datagrams_dropped_total: int
    datagrams_missed_total: int
    datagrams_to_client_total: int
    datagrams_to_server_total: int
    descriptors_missed_total: int
    drained_total: int
    first_byte_missed_total: int
    flows_total: int
    hello_expired_total: int
    held_refused_total: int
    held_total: int
    hold_expired_total: int
    maxconn_refused_total: int
    refused_total: int
    replayed_total: int
    reset_at_switch_total: int
    reset_by_client_total: int
    reset_by_server_total: int
    silent_evicted_total: int
    source_rate_refused_total: int
    source_refused_total: int
    spliced_bytes_total: int
    transparent_busy_total: int
    transparent_own_total: int
    transparent_refused_total: int
    unreachable_total: int

    def __init__(self) -> None:
        for field in _COUNTED:
            setattr(self, field, 0)

    def stats(
        self,
        name: str,
        *,
        connections_now: int = 0,
        silent_now: int = 0,
        held_now: int = 0,
        draining_now: int = 0,
        flows_now: int = 0,
    ) -> ListenerStats:
        """Return the figures of this moment as a value."""
        counted = {field: getattr(self, field) for field in _COUNTED}
        return ListenerStats(
            name=name,
            connections_now=connections_now,
            silent_now=silent_now,
            held_now=held_now,
            draining_now=draining_now,
            flows_now=flows_now,
            **counted,
        )
