"""Promises of the look at a host's own network configuration: who else would set the virtual address is named."""

from gateway.doctor.network_files import mentions, networkd


def write(root, path, text):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_a_virtual_address_in_any_of_the_usual_files_is_found_with_its_line(tmp_path):
    write(tmp_path, "etc/network/interfaces", "# up ip address add 10.0.0.100/32\nauto eth0\n  address 10.0.0.100/32\n")
    write(tmp_path, "etc/netplan/50.yaml", "addresses: [10.0.0.1/24, 10.0.0.100/24]\n")
    write(tmp_path, "etc/NetworkManager/system-connections/wired", "[ipv6]\naddress1=fd77::100/128\n")
    write(tmp_path, "etc/systemd/network/eth0.network.d/x.conf", "[Network]\nAddress=10.0.0.100/24\n")
    write(tmp_path, "etc/keepalived/keepalived.conf", "virtual_ipaddress {\n 10.0.0.100\n}\n")
    found = mentions(["10.0.0.100", "fd77::100"], tmp_path)
    assert {(one.path, one.line, one.address) for one in found} == {
        ("/etc/network/interfaces", 3, "10.0.0.100"),
        ("/etc/netplan/50.yaml", 1, "10.0.0.100"),
        ("/etc/NetworkManager/system-connections/wired", 2, "fd77::100"),
        ("/etc/systemd/network/eth0.network.d/x.conf", 2, "10.0.0.100"),
        ("/etc/keepalived/keepalived.conf", 2, "10.0.0.100"),
    }


def test_addresses_that_only_begin_alike_are_others(tmp_path):
    write(
        tmp_path,
        "etc/network/interfaces",
        "address 10.0.0.10\naddress 110.0.0.1\naddress 10.0.0.1.example\naddress fd77::10\n",
    )
    assert mentions(["10.0.0.1", "fd77::1", "0.0.0.10"], tmp_path) == ()


def test_a_device_of_networkd_is_known_with_what_it_keeps(tmp_path):
    write(tmp_path, "sys/class/net/eth0/ifindex", "2\n")
    write(tmp_path, "sys/class/net/eth1/ifindex", "3\n")
    write(tmp_path, "sys/class/net/eth2/ifindex", "4\n")
    write(
        tmp_path, "run/systemd/netif/links/2", "ADMIN_STATE=configured\nNETWORK_FILE=/etc/systemd/network/a.network\n"
    )
    write(tmp_path, "run/systemd/netif/links/3", "ADMIN_STATE=unmanaged\n")
    write(tmp_path, "etc/systemd/network/a.network", "[Match]\nName=eth0\n[Network]\nDHCP=yes\n")
    assert networkd(["eth0", "eth1", "eth2"], tmp_path) == {"eth0": ""}
    write(tmp_path, "etc/systemd/network/a.network.d/keep.conf", "[Network]\nKeepConfiguration=yes\n")
    assert networkd(["eth0"], tmp_path) == {"eth0": "yes"}
