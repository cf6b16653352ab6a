"""What systemd hears: real datagrams on a socket as systemd opens it."""

import socket

from gateway.kernel.sd_notify import SystemdNotifier


def heard(listening):
    listening.setblocking(False)
    found = []
    while True:
        try:
            found.append(listening.recv(4096).decode())
        except BlockingIOError:
            return found


def test_systemd_hears_what_the_service_does(tmp_path):
    for address in (str(tmp_path / "notify"), f"@{tmp_path}/notify"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
            listening.bind(address.replace("@", "\0"))
            notifier = SystemdNotifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "10000000"})
            assert notifier.watchdog_s == 5.0
            notifier.ready()
            notifier.status("holds pool-vip\nnow")
            notifier.status("holds pool-vip\nnow")
            notifier.alive()
            notifier.stopping()
            assert heard(listening) == ["READY=1", "STATUS=holds pool-vip now", "WATCHDOG=1", "STOPPING=1"]


def test_without_systemd_nothing_is_said_and_nobody_watches():
    notifier = SystemdNotifier({})
    notifier.ready()
    assert notifier.watchdog_s is None


def test_a_socket_that_nobody_reads_costs_nothing(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        notifier = SystemdNotifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        for _ in range(1_000):
            notifier.alive()
    notifier.alive()  # and none is there any more
