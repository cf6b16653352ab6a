"""placeholder until replication lands."""

from typing import Any
import trio
from gateway.config.settings import Backend, Peer, Settings
from gateway.matchmaker.condor import CondorHost
from gateway.wire.seal import Keyring


class Accounting:
    def __init__(self, *, settings: Settings, backend: Backend, me: Peer, keyring: Keyring) -> None:
        self.freshness = (0, 0)

    def status(self) -> dict[str, Any]:
        return {}

    async def load(self) -> None: ...
    def follow(self, leader: str | None, term: int) -> None: ...
    async def install(self, host: CondorHost) -> None: ...
    async def receive(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()

    async def ship(self, term: int, host: CondorHost) -> None: ...
