"""How many connections a client address may have, and how fast it may make new ones."""

from gateway.relay.sources import BURST_S, FORGET_S, Sources


def taken(sources, source, tries, rate, now):
    return sum(not sources.is_too_fast(source, rate, now) for _ in range(tries))


def test_a_source_may_come_at_once_with_what_ten_seconds_allow_and_then_at_its_rate():
    sources = Sources()
    assert taken(sources, "a", 100, 5, 1_000.0) == 5 * BURST_S
    assert taken(sources, "b", 1, 5, 1_000.0) == 1, "another one has a bucket of its own"
    assert taken(sources, "a", 100, 5, 1_001.0) == 5
    assert taken(sources, "a", 100, 5, 1_001.1) == 0
    assert taken(sources, "a", 100, 5, 1_001.2) == 1
    assert taken(sources, "a", 1_000, 5, 2_000.0) == 5 * BURST_S, "never more than a bucket holds"


def test_a_source_that_is_gone_and_whose_bucket_is_full_is_forgotten():
    sources = Sources()
    for number in range(1_000):
        assert not sources.is_too_fast(f"10.0.{number // 250}.{number % 250}", 5, 1_000.0)
        sources.add(f"10.0.{number // 250}.{number % 250}")
    for number in range(1, 1_000):
        sources.remove(f"10.0.{number // 250}.{number % 250}")
    assert len(sources) == 1_000
    assert not sources.is_too_fast("10.1.0.0", 5, 1_000.0 + FORGET_S)
    assert len(sources) == 2, "the one that comes now, and the one that is still here"


def test_connections_of_a_source_are_counted_until_they_are_gone():
    sources = Sources()
    sources.add("a")
    sources.add("a")
    assert sources.has_too_many("a", 2)
    assert not sources.has_too_many("a", 3)
    assert not sources.has_too_many("b", 1)
    sources.remove("a")
    assert not sources.has_too_many("a", 2)
