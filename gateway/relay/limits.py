"""Limits: what one relay process may have of what was asked for: its share, and no more than its descriptors carry.

Rule: whoever is over a limit is refused at once. Without descriptors the kernel would let clients connect, and nobody
could take them off its queue: so the limits end before the descriptors do.
"""

from collections.abc import Iterable, Sequence

import msgspec

from gateway.relay.messages import Listener, WhenDown

CONNECTION_DESCRIPTORS = 2  # the client's and the server's
# Standard streams, epolls, trio's own, a probe; pipes for bulk, as far as they are to be had.
RESERVE_DESCRIPTORS = 256
RESERVE_PART_MAX = 4  # of few descriptors at most a fourth


def share(listener: Listener, workers: int) -> Listener:
    """Return the part of `listener` that one of `workers` processes carries.

    The kernel deals clients out by a hash of both addresses and ports: about alike where there are many. Rounded up,
    so that a limit of one still lets one in. REFUSE listeners are not shared out: one process has them.
    """
    if workers == 1 or listener.when_down is WhenDown.REFUSE:
        return listener
    return msgspec.structs.replace(
        listener,
        connections_max=-(-listener.connections_max // workers),
        silent_max=-(-listener.silent_max // workers),
        held_max=-(-listener.held_max // workers),
        source_max=-(-listener.source_max // workers),
        source_rate=-(-listener.source_rate // workers),
        flows_max=-(-listener.flows_max // workers),
    )


def demand(listeners: Iterable[Listener]) -> int:
    """Return how many descriptors these may use with every limit reached."""
    return sum(1 + _clients(listener) for listener in listeners)


def _clients(listener: Listener) -> int:
    if listener.protocol == "udp":
        return listener.flows_max
    return CONNECTION_DESCRIPTORS * listener.connections_max + listener.silent_max


def reserve(descriptors: int) -> int:
    """Return how many of `descriptors` are not for clients."""
    return min(RESERVE_DESCRIPTORS, descriptors // RESERVE_PART_MAX)


def fit(listeners: Sequence[Listener], descriptors: int) -> tuple[Listener, ...]:
    """Return `listeners` with limits that `descriptors` carry, all of them cut by the same factor where they do not."""
    available = max(0, descriptors - reserve(descriptors) - len(listeners))
    wanted = demand(listeners) - len(listeners)
    if wanted <= available:
        return tuple(listeners)

    def cut(limit: int) -> int:
        return max(1, limit * available // wanted)

    return tuple(
        msgspec.structs.replace(listener, flows_max=cut(listener.flows_max))
        if listener.protocol == "udp"
        else msgspec.structs.replace(
            listener,
            connections_max=cut(listener.connections_max),
            silent_max=cut(listener.silent_max),
            held_max=min(listener.held_max, cut(listener.connections_max)),
        )
        for listener in listeners
    )
