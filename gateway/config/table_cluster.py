"""The keyword table of `peers` and `address`: who votes, and what they hold. Data only."""

from gateway.config.schema import Argument, Keyword, Kind, Option, table
from gateway.config.settings import OnPartition, Role

PEERS = table(
    Keyword(
        name="heartbeat",
        help="time between two heartbeats to every peer",
        arguments=(
            Argument(
                name="time",
                kind=Kind.DURATION,
                low=10,
                high=10_000,
                low_reason="a process that sleeps is woken up to 14 ms late (measured)",
                high_reason="a dead leader is only missed after several of them",
                default="50ms",
            ),
        ),
    ),
    Keyword(
        name="lease",
        help="how long a leader may act after a majority last heard it: the length of a takeover",
        arguments=(
            Argument(
                name="time",
                kind=Kind.DURATION,
                low=30,
                high=60_000,
                low_reason="a leader stops 10 ms before its end, and heartbeats are 10 ms apart at least",
                high_reason="for so long the pool of a dead leader has no matchmaker",
                default="300ms",
            ),
        ),
    ),
    Keyword(
        name="on-partition",
        help="what a side without a majority does; must be said where there are two peers",
        arguments=(
            Argument(
                name="policy",
                kind=Kind.CHOICE,
                choices=tuple(policy.value for policy in OnPartition),
                default=OnPartition.HOLD.value,
            ),
        ),
    ),
    Keyword(
        name="guard-dead-time",
        help="silence of the control process after which its guard looks whether it is frozen, and then resigns for it",
        arguments=(
            Argument(
                name="time",
                kind=Kind.DURATION,
                low=10,
                high=5_000,
                low_reason="a busy host wakes a healthy process later than that",
                high_reason="by then the lease of a frozen process has ended by itself",
                default="30ms",
            ),
        ),
    ),
    Keyword(
        name="peer",
        help="a node: its name, where it hears heartbeats (UDP), what it does; every peer votes",
        arguments=(
            Argument(name="name", kind=Kind.NAME),
            Argument(name="address:port", kind=Kind.ENDPOINT),
            Argument(name="role", kind=Kind.CHOICE, choices=tuple(role.value for role in Role), many=True),
        ),
        once=False,
        required=True,
    ),
)

ADDRESS = table(
    Keyword(
        name="ip",
        help="the virtual address, and the interface of the gateways that carries it",
        arguments=(Argument(name="address/prefix", kind=Kind.PREFIX),),
        options=(
            Option(
                word="dev",
                help="the interface",
                argument=Argument(name="interface", kind=Kind.DEVICE),
                required=True,
            ),
        ),
        required=True,
    ),
    Keyword(
        name="holder",
        help="peers that may hold the address, most wanted first",
        arguments=(Argument(name="peer", kind=Kind.NAME, many=True),),
        required=True,
    ),
)
