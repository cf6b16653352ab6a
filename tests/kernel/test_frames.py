"""Frames filled in from templates are what scapy makes of the same addresses; a maker that fails is an answer."""

import ipaddress
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether

from gateway.kernel import frames, netlink, templates
from gateway.kernel.templates import MARKS, TemplatesMissing

ipv4_addresses = st.ip_addresses(v=4).map(str)
# The mark itself and what contains it are the addresses that a careless replacement would get wrong.
ipv6_addresses = st.one_of(
    st.ip_addresses(v=6),
    st.binary(min_size=13, max_size=13).map(lambda head: ipaddress.IPv6Address(head + MARKS["ipv6_tail"])),
    st.binary(min_size=10, max_size=10).map(lambda head: ipaddress.IPv6Address(MARKS["mac"] + head)),
).map(str)
macs = st.one_of(st.binary(min_size=6, max_size=6), st.just(MARKS["mac"])).map(lambda mac: mac.hex(":"))


@given(ip=ipv4_addresses, mac=macs)
@settings(max_examples=100, deadline=None)
def test_arp_frames_are_those_of_scapy(ip, mac):
    header = Ether(src=mac, dst="ff:ff:ff:ff:ff:ff")
    unknown = "00:00:00:00:00:00"
    request = header / ARP(op=1, hwsrc=mac, psrc=ip, hwdst=unknown, pdst=ip)
    reply = header / ARP(op=2, hwsrc=mac, psrc=ip, hwdst=mac, pdst=ip)
    probe = header / ARP(op=1, hwsrc=mac, psrc="0.0.0.0", hwdst=unknown, pdst=ip)
    assert frames.arp_frames(ip, mac) == (bytes(request), bytes(reply))
    assert frames.probe_frame(ip, mac) == bytes(probe)


@given(ip=ipv6_addresses, mac=macs)
@settings(max_examples=100, deadline=None)
def test_neighbour_frames_are_those_of_scapy(ip, mac):
    advertisement = (
        Ether(src=mac, dst="33:33:00:00:00:01")
        / IPv6(src=ip, dst="ff02::1", hlim=255)
        / ICMPv6ND_NA(tgt=ip, R=0, S=0, O=1)
        / ICMPv6NDOptDstLLAddr(lladdr=mac)
    )
    tail = ipaddress.IPv6Address(ip).packed[-3:].hex()
    solicitation = (
        Ether(src=mac, dst=f"33:33:ff:{tail[0:2]}:{tail[2:4]}:{tail[4:6]}")
        / IPv6(src="::", dst=f"ff02::1:ff{tail[0:2]}:{tail[2:6]}", hlim=255)
        / ICMPv6ND_NS(tgt=ip)
    )
    assert frames.neighbour_frames(ip, mac) == (bytes(advertisement),)
    assert frames.solicitation_frame(ip, mac) == bytes(solicitation)


@given(address=st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)), index=st.integers(1, 2**31 - 1))
@settings(max_examples=50, deadline=None)
def test_a_request_for_an_address_reads_as_it_was_meant(address, index):
    for name, kind in (("address-add", netlink.RTM_NEWADDR), ("address-remove", netlink.RTM_DELADDR)):
        read = ifaddrmsg(netlink.address_request(name, str(address), address.max_prefixlen, index))
        read.decode()
        assert (read["header"]["type"], read["prefixlen"], read["index"]) == (kind, address.max_prefixlen, index)
        assert read["header"]["length"] == len(read.data)
        assert ipaddress.ip_address(read.get("local")) == ipaddress.ip_address(read.get("address")) == address
        # RFC 4862 §5.4 is not waited for, and no connection of this host's own chooses the address.
        silent = kind == netlink.RTM_NEWADDR and address.version == 6
        assert (read.get("flags_ext") or read.get("IFA_FLAGS")) == (2 if silent else None)
        assert (read.get("cacheinfo") or {}).get("ifa_preferred") == (0 if silent else None)


def test_a_checksum_that_would_be_minus_zero_is_zero():
    assert frames._checksum(b"\xff\xff\x00\x00") == 0
    assert frames._checksum(b"\x12\x34\xed\xcb") == 0


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("raise SystemExit('no scapy here')", r"no scapy here\).*are they installed"),
        ("import time; time.sleep(60)", "not made after 0.5 s"),
        ("print('frames')", "printed something else"),
        ("print('{\"arp-request\": 7}')", "printed something else"),
        ("print('[]')", "printed something else"),
        ("print('x' * 100_000)", "100001 bytes"),
    ],
)
def test_a_maker_that_fails_is_a_sentence_for_the_operator(script, said):
    with pytest.raises(TemplatesMissing, match=said):
        templates.made_by((sys.executable, "-c", script), 0.5 if "sleep" in script else 30)


def test_a_maker_that_is_not_there_is_a_sentence_for_the_operator():
    with pytest.raises(TemplatesMissing, match="cannot start '/nowhere/python'"):
        templates.made_by(("/nowhere/python",), 1)


def test_control_imports_no_library_of_packets():
    """Its memory would be torn down before the guard learns of a death; see `gateway.kernel.templates`."""
    program = (
        "import sys, gateway.daemon; from gateway.kernel import frames; "
        "frames.announcement_frames('10.1.2.3', '02:00:00:00:00:01'); "
        "print(*(name for name in sys.modules if name.partition('.')[0] in ('scapy', 'pyroute2')))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == []
