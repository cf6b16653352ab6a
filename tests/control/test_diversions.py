"""Diversions of a gateway and what managers do for them, as control runs them: real kernels, no HTCondor."""

import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from gateway.config.settings import (
    Address,
    Backend,
    Bind,
    Endpoint,
    Forward,
    Frontend,
    LogFormat,
    Peer,
    Protocol,
    Role,
    Server,
    Settings,
)
from gateway.control import diversion, nat_diversion, receiving
from gateway.control.diversions import Diversions
from gateway.control.receiving import Receivings
from gateway.core.actions import FollowLeader
from gateway.kernel.address import VirtualAddress
from gateway.kernel.sysctl import read_sysctl
from gateway.kernel.templates import templates
from tests.support import netns
from tests.support.netns import DEVICE, Host, Segment

pytestmark = pytest.mark.kernel

IP, PORT = "10.77.0.100", 9618
HOSTS = {"gw1": "10.77.0.91", "cm1": "10.77.0.11", "cm2": "10.77.0.12"}
BOTH = frozenset({Protocol.TCP, Protocol.UDP})


def settings(folder: Path, way: Forward, cm2: str = HOSTS["cm2"]) -> Settings:
    """Return the configuration of one gateway and two managers."""
    hosts = HOSTS | {"cm2": cm2}
    roles = {"gw1": Role.GATEWAY, "cm1": Role.MANAGER, "cm2": Role.MANAGER}
    return Settings(
        cluster="tests",
        key_file="/none",
        state_dir=str(folder),
        log_format=LogFormat.JSON,
        peers_name="lan",
        heartbeat_ms=50,
        lease_ms=300,
        peers=tuple(
            Peer(name=name, endpoint=Endpoint(host, 9619), roles=frozenset({roles[name]}))
            for name, host in hosts.items()
        ),
        addresses=(Address(name="vip", ip=IP, prefix_length=32, device=DEVICE, holders=("gw1",)),),
        frontends=(Frontend(name="in", binds=(Bind(address="vip", port=PORT, protocols=BOTH),), backend="managers"),),
        backends=(
            Backend(
                name="managers",
                servers=tuple(Server(name=name, endpoint=Endpoint(hosts[name], PORT)) for name in ("cm1", "cm2")),
                forward=way,
            ),
        ),
    )


@pytest.fixture
def segment() -> Iterator[Segment]:
    reason = netns.usable()
    if reason is not None:
        pytest.skip(reason)
    templates()
    with Segment("cgd") as made:
        yield made


@pytest.fixture
def gateway(segment: Segment) -> Host:
    for name, address in HOSTS.items():
        segment.host(name, f"{address}/24")
    segment.host("client", "10.77.0.50/24")
    return segment.hosts["gw1"]


Body = Callable[[Diversions], Awaitable[Any]]


def on_gateway(host: Host, wanted: Settings, body: Body, *, hold: bool = True) -> Any:
    """Run `body` beside the diversions of a gateway that holds the address."""

    async def main() -> Any:
        made = Diversions(wanted, wanted.peer("gw1"))
        await made.prepare(adopt=False)
        if hold:
            VirtualAddress(IP, 32, DEVICE).add()
            for one in made.of_address("vip"):
                one.grant(30_000)
        async with trio.open_nursery() as nursery:
            await nursery.start(made.run)
            found = await body(made)
            nursery.cancel_scope.cancel()
        return found

    return host.call(lambda: trio.run(main))


async def until(true: Callable[[], bool], within_s: float = 10.0) -> bool:
    """Return whether `true` became so in time."""
    with trio.move_on_after(within_s):
        while not true():  # noqa: ASYNC110 (the kernel is asked)
            await trio.sleep(0.01)
        return True
    return False


def endpoint(name: str) -> Endpoint:
    return Endpoint(HOSTS[name], PORT)


def test_direct_follows_the_elected_manager_to_its_mac(gateway: Host, segment: Segment, tmp_path: Path) -> None:
    macs = {segment.hosts[name].mac for name in ("cm1", "cm2")}

    async def body(made: Diversions) -> list[str | None]:
        seen = []
        for name in ("cm1", "cm2"):
            made.set_server("managers", endpoint(name), 0)
            assert await until(lambda: made.status()["managers/vip"]["server_mac"] not in (None, *seen))
            seen.append(made.status()["managers/vip"]["server_mac"])
        made.set_server("managers", None, 0)
        return [*seen, made.status()["managers/vip"]["server_mac"]]

    *found, last = on_gateway(gateway, settings(tmp_path, Forward.DIRECT), body)
    assert set(found) == macs
    assert last is None, "while nobody is elected the relay has what is new"


def test_a_manager_behind_a_router_is_left_to_the_relay_and_status_says_why(gateway: Host, tmp_path: Path) -> None:
    gateway.ip("route", "add", "10.99.0.0/24", "via", HOSTS["cm1"], "dev", DEVICE)
    wanted = settings(tmp_path, Forward.DIRECT, cm2="10.99.0.12")

    async def body(made: Diversions) -> dict[str, Any]:
        made.set_server("managers", Endpoint("10.99.0.12", PORT), 0)
        assert await until(lambda: made.status()["managers/vip"]["refused"] is not None)
        return made.status()["managers/vip"]

    found = on_gateway(gateway, wanted, body)
    assert found["server_mac"] is None
    assert found["refused"] == f"behind the router {HOSTS['cm1']}, not on the segment of '{DEVICE}'"


@pytest.mark.parametrize("way", [Forward.DIRECT, Forward.NAT])
def test_rules_that_are_gone_are_built_again_with_their_server(
    gateway: Host, tmp_path: Path, way: Forward, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diversion, "LOOK_S", 0.05)
    monkeypatch.setattr(diversion, "MEND_S", 0.05)

    async def body(made: Diversions) -> bool:
        made.set_server("managers", endpoint("cm1"), 0)
        one = made.direct[0] if way is Forward.DIRECT else made.nat
        assert one is not None
        rules = one._direct if way is Forward.DIRECT else one._nat  # type: ignore[union-attr]
        refusal = rules._tables.remove()
        assert refusal is None
        assert not rules.intact()
        return await until(lambda: rules.intact() and not one.fault)

    assert on_gateway(gateway, settings(tmp_path, way), body)


def test_a_clean_end_leaves_no_rule_and_no_setting(gateway: Host, tmp_path: Path) -> None:
    def values() -> str:
        return read_sysctl(f"net/ipv4/conf/{DEVICE}/forwarding")

    async def body(made: Diversions) -> tuple[str, str]:
        return values(), (await trio.run_process(["nft", "list", "tables"], capture_stdout=True)).stdout.decode()

    for way in (Forward.NAT, Forward.DIRECT):
        before = gateway.call(values)
        during, tables = on_gateway(gateway, settings(tmp_path, way), body)
        assert f"condor-gateway-tests-{'vip-direct' if way is Forward.DIRECT else 'nat'}" in tables
        assert during == ("1" if way is Forward.NAT else before)
        assert gateway.call(values) == before
        assert "condor-gateway" not in gateway.run("nft", "list", "tables").stdout


def answering(host: Host) -> None:
    """Let a host answer each line with its name, until it is closed."""

    def serve() -> None:
        with socket.create_server(("0.0.0.0", PORT), backlog=64) as listening:
            held = []
            while True:
                stream, _ = listening.accept()
                held.append(stream)
                stream.sendall(stream.recv(100))

    host.start(serve)


def test_flows_to_a_former_server_end_soon_after_a_switch_by_nat(
    gateway: Host, segment: Segment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nat_diversion, "LOOK_S", 0.05)
    answering(segment.hosts["cm1"])
    answering(segment.hosts["cm2"])

    def client(told: socket.socket) -> str:
        stream = socket.create_connection((IP, PORT), 5)
        stream.settimeout(10)
        stream.sendall(b"first")
        assert stream.recv(100) == b"first"
        told.send(b"!")
        try:
            return "end" if stream.recv(100) == b"" else "more"  # it is silent, and still learns of it
        except ConnectionResetError:
            return "reset"

    ours, theirs = socket.socketpair()

    async def body(made: Diversions) -> tuple[str, dict[str, Any], dict[str, Any]]:
        made.set_server("managers", endpoint("cm1"), 0)
        running = segment.hosts["client"].start(client, theirs)
        await trio.to_thread.run_sync(ours.recv, 1)
        before = figures_of(made)
        assert await until(lambda: figures_of(made)["cm1"]["connections"]["now"] == 1), "seen in the table of flows"
        made.set_server("managers", endpoint("cm2"), 0)
        result = await trio.to_thread.run_sync(running.result)
        assert await until(lambda: made.status()["managers"]["expelled_total"] > 0)
        assert await until(lambda: figures_of(made)["cm1"]["connections"]["now"] == 0)
        assert before["cm1"]["connections"]["total"] == 1
        return result, made.status()["managers"], figures_of(made)

    result, status, servers = on_gateway(gateway, settings(tmp_path, Forward.NAT), body)
    assert result == "reset"
    assert status["expelled_total"] == 1
    assert status["server"] == f"{HOSTS['cm2']}:{PORT}"
    assert [servers[name]["connections"]["total"] for name in ("cm1", "cm2")] == [1, 0]
    assert [servers[name]["connections"]["reset"] for name in ("cm1", "cm2")] == [1, 0]
    assert servers["cm1"]["bytes"]["to_server"] > 100
    assert servers["cm1"]["bytes"]["to_client"] > 100


def figures_of(made: Diversions) -> dict[str, Any]:
    """Return what the kernel has carried to each server."""
    (one,) = made.carried()["managers"]
    return dict(one.servers)


def test_what_direct_forwards_is_counted_for_the_server_of_that_time(
    gateway: Host, segment: Segment, tmp_path: Path
) -> None:
    def send(count: int) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
            for _ in range(count):
                sending.sendto(bytes(1_000), (IP, PORT))

    async def body(made: Diversions) -> tuple[Any, dict[str, Any]]:
        total = 0
        for name, count in (("cm1", 3), ("cm2", 4)):
            made.set_server("managers", endpoint(name), 0)
            assert await until(lambda: made.carried()["managers"][0].carries)
            await trio.to_thread.run_sync(segment.hosts["client"].call, send, count)
            total += count
            # The kernel is asked past the diversion, which has to look by itself when the server changes.
            assert await until(lambda total=total: made.direct[0]._direct.counters()["datagrams_total"] == total)
        assert await until(lambda: made.carried()["managers"][0].figures["rates"]["datagrams_to_server"] > 0)
        return made.carried()["managers"][0].figures, figures_of(made)

    figures, servers = on_gateway(gateway, settings(tmp_path, Forward.DIRECT), body)
    assert {name: one["datagrams"]["to_server"] for name, one in servers.items()} == {"cm1": 3, "cm2": 4}
    assert figures["bytes"]["to_server"] > 7_000
    assert (figures["connections"]["now"], figures["bytes"]["to_client"]) == (None, None), "it cannot know"


def on_manager(host: Host, wanted: Settings, body: Callable[[Receivings], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        made = Receivings(wanted, wanted.peer("cm1"))
        warnings = await made.prepare(adopt=False)
        async with trio.open_nursery() as nursery:
            await nursery.start(made.run)
            found = await body(made)
            nursery.cancel_scope.cancel()
        return found, warnings

    return host.call(lambda: trio.run(main))


def test_only_the_elected_manager_holds_the_address_and_gives_it_up_when_another_is(
    gateway: Host, segment: Segment, tmp_path: Path
) -> None:
    async def body(made: Receivings) -> list[bool]:
        held = []
        for term, leader in enumerate(("cm1", None, "cm2", "cm1", "cm2")):
            made.follow(FollowLeader("managers", leader, term))
            held.append(made.status()["managers"]["addresses"][IP])
        return held

    host = segment.hosts["cm1"]
    held, warnings = on_manager(host, settings(tmp_path, Forward.DIRECT), body)
    assert held == [True, True, False, True, False], "while nobody is elected, what is open goes on"
    assert warnings == []
    assert host.call(read_sysctl, f"net/ipv4/conf/{DEVICE}/arp_ignore") == "0", "put back at the end"


def test_connections_of_a_manager_that_is_no_longer_elected_are_reset(segment: Segment, tmp_path: Path) -> None:
    host = segment.host("cm1", f"{HOSTS['cm1']}/24")

    async def body(made: Receivings) -> tuple[bool, int]:
        made.follow(FollowLeader("managers", "cm1", 1))
        with socket.create_server((IP, PORT)) as listening:
            client = socket.create_connection((IP, PORT), source_address=(HOSTS["cm1"], 0))
            server, _ = listening.accept()
            made.follow(FollowLeader("managers", "cm2", 2))
            try:
                client.settimeout(5)
                reset = client.recv(1) != b""
            except ConnectionResetError:
                reset = True
            server.close()
        return reset, made.status()["managers"]["destroyed_total"]

    (reset, destroyed), _ = on_manager(host, settings(tmp_path, Forward.DIRECT), body)
    assert reset
    assert destroyed >= 1


def test_what_a_crash_has_left_on_a_manager_is_cleared_at_the_next_start(segment: Segment, tmp_path: Path) -> None:
    host = segment.host("cm1", f"{HOSTS['cm1']}/24")
    wanted = settings(tmp_path, Forward.DIRECT)

    def crash() -> None:
        async def main() -> None:
            made = Receivings(wanted, wanted.peer("cm1"))
            await made.prepare(adopt=False)
            made.follow(FollowLeader("managers", "cm1", 1))

        trio.run(main)

    async def body(made: Receivings) -> bool:
        return bool(made.status()["managers"]["addresses"][IP])

    host.call(crash)
    assert IP in host.ip("address", "show", "dev", "lo").stdout
    held, _ = on_manager(host, wanted, body)
    assert not held, "who has just started leads nobody"
    assert host.call(read_sysctl, f"net/ipv4/conf/{DEVICE}/arp_ignore") == "0"


def test_more_connections_than_fit_into_one_go_are_all_reset_before_the_address_goes(
    segment: Segment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "ORPHANS_MAX", 5)
    host = segment.host("cm1", f"{HOSTS['cm1']}/24")

    async def body(made: Receivings) -> tuple[int, bool]:
        made.follow(FollowLeader("managers", "cm1", 1))
        clients = []
        with socket.create_server((IP, PORT), backlog=64) as listening:
            servers = []
            for _ in range(30):
                clients.append(socket.create_connection((IP, PORT), source_address=(HOSTS["cm1"], 0)))
                servers.append(listening.accept()[0])
            made.follow(FollowLeader("managers", "cm2", 2))
            assert await until(lambda: not made.status()["managers"]["addresses"][IP])
            reset = 0
            for client in clients:
                client.settimeout(5)
                with contextlib.suppress(ConnectionResetError):
                    client.recv(1)
                    continue
                reset += 1
        return reset, made.status()["managers"]["addresses"][IP]

    (reset, held), _ = on_manager(host, settings(tmp_path, Forward.DIRECT), body)
    assert reset == 30
    assert not held


def test_a_lease_that_has_ended_is_not_revived_by_an_extension(gateway: Host, tmp_path: Path) -> None:
    async def body(made: Diversions) -> tuple[bool, bool]:
        one = made.direct[0]
        one.grant(100)
        await trio.sleep(0.3)
        one.extend(30_000)
        revived = one._direct.extend(30_000)
        one.grant(30_000)
        return revived, one._direct.extend(30_000)

    assert on_gateway(gateway, settings(tmp_path, Forward.DIRECT), body, hold=False) == (False, True)


def test_connections_that_gateways_had_translated_to_a_former_manager_end_there(
    segment: Segment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway has dropped their flows: nobody else would ever tell the manager."""
    monkeypatch.setattr(receiving, "ORPHANED_S", 0.0)
    host = segment.host("cm1", f"{HOSTS['cm1']}/24", f"{HOSTS['gw1']}/32", "10.77.0.50/32")
    wanted = settings(tmp_path, Forward.NAT)
    wanted = msgspec.structs.replace(
        wanted, backends=tuple(msgspec.structs.replace(one, drain_ms=0) for one in wanted.backends)
    )

    async def body(made: Receivings) -> tuple[int, bool]:
        with socket.create_server((HOSTS["cm1"], PORT)) as listening:
            to = (HOSTS["cm1"], PORT)
            translated = socket.create_connection(to, source_address=(HOSTS["gw1"], 0))
            _one = listening.accept()
            direct = socket.create_connection(to, source_address=("10.77.0.50", 0))
            _other = listening.accept()
            for term, leader in enumerate(("cm1", None, "cm2")):
                made.follow(FollowLeader("managers", leader, term))
            assert await until(lambda: made.status()["managers"]["destroyed_total"] > 0)
            with pytest.raises(ConnectionResetError):
                translated.recv(1)
            direct.sendall(b"still here")
            return made.status()["managers"]["destroyed_total"], _other[0].recv(100) == b"still here"

    (destroyed, direct_lives), _ = on_manager(host, wanted, body)
    assert destroyed == 1
    assert direct_lives
