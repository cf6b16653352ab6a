"""Claims, as read from frames: what counts as one, and that nothing on the wire can do more than be ignored."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    ICMPv6NDOptUnknown,
    IPv6,
)
from scapy.layers.l2 import ARP, Ether

from gateway.kernel import frames
from gateway.kernel.claims import claimant_untrusted, packed_of

IPV4, IPV6 = "10.77.0.100", "fd77::100"
MAC, OTHER = "02:00:00:00:00:66", "02:00:00:00:00:67"


def to_all(hop_limit: int = 255, source: str = "fe80::66") -> IPv6:
    return Ether(src=MAC, dst="33:33:00:00:00:01") / IPv6(src=source, dst="ff02::1", hlim=hop_limit)


@pytest.mark.parametrize("ip", [IPV4, IPV6])
def test_our_own_announcements_are_claims_and_our_questions_are_not(ip: str) -> None:
    for frame in frames.announcement_frames(ip, MAC):
        assert claimant_untrusted(frame, packed_of(ip)) == MAC
    assert claimant_untrusted(frames.question_frame(ip, MAC), packed_of(ip)) is None


def test_a_claim_to_another_address_is_none_of_ours() -> None:
    for frame in (*frames.arp_frames("10.77.0.101", MAC), *frames.neighbour_frames("fd77::101", MAC)):
        assert claimant_untrusted(frame, packed_of(IPV4)) is None
        assert claimant_untrusted(frame, packed_of(IPV6)) is None


def test_an_arp_request_for_something_else_claims_its_senders_address() -> None:
    frame = bytes(Ether(src=MAC) / ARP(op=1, hwsrc=MAC, psrc=IPV4, pdst="10.77.0.1"))
    assert claimant_untrusted(frame, packed_of(IPV4)) == MAC


def test_an_advertisement_names_the_mac_in_its_option() -> None:
    na = to_all() / ICMPv6ND_NA(tgt=IPV6) / ICMPv6NDOptUnknown(type=14, len=1, data=b"nonce!")
    assert claimant_untrusted(bytes(na / ICMPv6NDOptDstLLAddr(lladdr=OTHER)), packed_of(IPV6)) == OTHER
    assert claimant_untrusted(bytes(na), packed_of(IPV6)) == MAC, "without an option, who sent it"


def test_a_solicitation_from_the_address_is_a_claim_because_it_changes_caches() -> None:
    ns = to_all(source=IPV6) / ICMPv6ND_NS(tgt="fd77::1") / ICMPv6NDOptSrcLLAddr(lladdr=OTHER)
    assert claimant_untrusted(bytes(ns), packed_of(IPV6)) == OTHER


def test_an_advertisement_that_came_through_a_router_is_no_claim() -> None:
    assert claimant_untrusted(bytes(to_all(hop_limit=254) / ICMPv6ND_NA(tgt=IPV6)), packed_of(IPV6)) is None


def test_options_without_length_end_the_list() -> None:
    na = bytes(to_all() / ICMPv6ND_NA(tgt=IPV6)) + bytes(16)
    assert claimant_untrusted(na, packed_of(IPV6)) == MAC


@given(
    start=st.sampled_from([*frames.arp_frames(IPV4, MAC), *frames.neighbour_frames(IPV6, MAC)]),
    cut=st.integers(0, 90),
    places=st.lists(st.tuples(st.integers(0, 85), st.integers(0, 255)), max_size=6),
    tail=st.binary(max_size=40),
)
def test_no_bytes_raise(start: bytes, cut: int, places: list[tuple[int, int]], tail: bytes) -> None:
    frame = bytearray(start[:cut] + tail)
    for place, value in places:
        if place < len(frame):
            frame[place] = value
    for ip in (IPV4, IPV6):
        found = claimant_untrusted(bytes(frame), packed_of(ip))
        assert found is None or len(found) == 17
