"""A server that sees its clients' own addresses: IP_TRANSPARENT, in namespaces of our own."""

import os
import socket
import time

import pytest
from relay_harness import DEADLINE_S, RelayByHand

from gateway.relay.messages import Listener, ListenFailed, Ready
from tests.support import netns

pytestmark = pytest.mark.kernel

PORT = 9_618
CLIENT, GATEWAY, SERVER = (
    {4: "10.77.1.1", 6: "fd77:1::1"},
    {4: "10.77.1.2", 6: "fd77:1::2"},
    {4: "10.77.1.3", 6: "fd77:1::3"},
)
BITS = {4: 24, 6: 64}


@pytest.fixture(params=[4, 6])
def net(request):
    """A client, a gateway and a server; what the server sends to the client is sent to the gateway, which takes it."""
    if reason := netns.usable():
        pytest.skip(reason)
    version = request.param
    with netns.Segment("cgr") as segment:
        for name, address in (("client", CLIENT), ("gateway", GATEWAY), ("server", SERVER)):
            segment.host(name, f"{address[version]}/{BITS[version]}")
        flag, whole = f"-{version}", 32 if version == 4 else 128
        hosts = segment.hosts
        hosts["server"].ip(flag, "route", "add", f"{CLIENT[version]}/{whole}", "via", GATEWAY[version])
        hosts["gateway"].ip(flag, "rule", "add", "from", SERVER[version], "iif", netns.DEVICE, "lookup", "77")
        hosts["gateway"].ip(flag, "route", "add", "local", "default", "dev", "lo", "table", "77")
        segment.version = version
        yield segment


class Relaying:
    """A relay on the gateway."""

    def __init__(self, net, *command, protocol="tcp"):
        inside = ("ip", "netns", "exec", net.hosts["gateway"].namespace)
        self._relay = RelayByHand(*inside, *command)
        front = Listener(
            name="front",
            route="pool",
            protocol=protocol,
            host=GATEWAY[net.version],
            port=PORT,
            transparent=True,
            connect_ms=3_000,
        )
        self.ready = self._relay.listen(front)
        self._relay.switch(SERVER[net.version], PORT)
        self.stats_when = self._relay.stats_when

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._relay.close()


def serve(host):
    """Tell each client its address as the server sees it, and echo a byte of it."""
    with socket.create_server((host, PORT), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as listening:
        while True:
            client, address = listening.accept()
            client.sendall(client.recv(1) + address[0].encode())
            if os.fork() == 0:  # keep the connection, serve the next
                time.sleep(DEADLINE_S)
                os._exit(0)


def serve_datagrams(host):
    """Tell each client its address as the server sees it."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as serving:
        serving.bind((host, PORT))
        while True:
            _datagram, address = serving.recvfrom(100)
            serving.sendto(address[0].encode(), address)


def ask_by_datagram(host):
    """What the server says, sooner or later: it may not serve yet."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(0.2)
        asking.connect((host, PORT))
        for _ in range(5 * DEADLINE_S):
            try:
                asking.send(b"!")
                return asking.recv(100)
            except (TimeoutError, ConnectionRefusedError):
                pass
    return b""


def ask(host, count=1):
    """What the server says to each of `count` clients, all open at once; an error's name for those who are refused."""
    said, clients = [], []
    for _ in range(count):
        try:
            client = socket.create_connection((host, PORT), timeout=DEADLINE_S)
            clients.append(client)
            client.sendall(b"!")
            said.append(client.recv(100))
        except OSError as error:
            said.append(type(error).__name__)
    return said


def test_server_sees_the_clients_own_address(net):
    net.hosts["server"].start(serve, SERVER[net.version])
    with Relaying(net) as relaying:
        assert isinstance(relaying.ready, Ready)
        said = net.hosts["client"].call(ask, GATEWAY[net.version])
        assert said == [b"!" + CLIENT[net.version].encode()]


def test_client_on_the_servers_own_host_is_served_from_the_gateways_address(net):
    """The answer to an address of its own would never leave the server's host."""
    server = net.hosts["server"]
    server.start(serve, SERVER[net.version])
    with Relaying(net) as relaying:
        assert server.call(ask, GATEWAY[net.version]) == [b"!" + GATEWAY[net.version].encode()]
        assert net.hosts["client"].call(ask, GATEWAY[net.version]) == [b"!" + CLIENT[net.version].encode()]
        stats = relaying.stats_when(lambda stats: stats.connections_total == 2)
        assert (stats.transparent_own_total, stats.refused_total) == (1, 0)


def test_datagrams_from_the_servers_own_host_come_from_the_gateways_address(net):
    server = net.hosts["server"]
    server.start(serve_datagrams, SERVER[net.version])
    with Relaying(net, protocol="udp") as relaying:
        assert server.call(ask_by_datagram, GATEWAY[net.version]) == GATEWAY[net.version].encode()
        assert net.hosts["client"].call(ask_by_datagram, GATEWAY[net.version]) == CLIENT[net.version].encode()
        assert relaying.stats_when(lambda stats: stats.flows_total >= 2).transparent_own_total >= 1


def test_client_without_a_free_port_is_refused_under_its_own_name(net):
    """One port for all connections from the gateway's side: the second one towards the same server has none."""
    net.hosts["gateway"].run("sysctl", "-qw", "net.ipv4.ip_local_port_range=40001 40001")
    net.hosts["server"].start(serve, SERVER[net.version])
    with Relaying(net) as relaying:
        said = net.hosts["client"].call(ask, GATEWAY[net.version], 2)
        assert said == [b"!" + CLIENT[net.version].encode(), "ConnectionResetError"]
        stats = relaying.stats_when(lambda stats: stats.transparent_busy_total == 1)
        assert (stats.refused_total, stats.transparent_refused_total) == (1, 0)


def test_missing_privilege_is_told_when_the_port_is_opened(net):
    with Relaying(net, "setpriv", "--bounding-set=-net_admin,-net_raw", "--inh-caps=-net_admin,-net_raw") as relaying:
        assert isinstance(relaying.ready, ListenFailed)
        assert relaying.ready.reason.startswith("EPERM")
