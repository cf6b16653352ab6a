"""What a series of reloads tells its reader: nobody noticed, or who did."""

import msgspec
import pytest

from gateway.lab.measure.reloads import Reloads, describe

QUIET = Reloads(
    forward="proxy", ip_version=4, reloads=100, flows=14, queries=900, jobs=240, lost=0, reload_ms=[900, 1100, 1000]
)


def test_a_series_that_nobody_noticed_says_so_in_figures():
    assert QUIET.kept
    assert describe(QUIET) == (
        "100 reloads of the holder, each with a changed file; forward proxy, IPv4\n"
        "  flows broken    0 of 14\n"
        "  queries failed  0 of 900\n"
        "  jobs lost       0 of 240 that ran\n"
        "  lease           kept\n"
        "  refused         0\n"
        "  command         1000 ms median, 1100 ms most"
    )


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("broken", ["exec1:10.77.0.31:4711"], "flows broken    1 of 14 exec1:10.77.0.31:4711"),
        ("failed", ["no schedd"], "queries failed  1 of 900 no schedd"),
        ("lost", 2, "jobs lost       2 of 240"),
        ("changed", ["pool-vip"], "lease           lost: pool-vip"),
        ("refused", ["no"], "refused         1 no"),
    ],
)
def test_whatever_was_noticed_is_not_kept_quiet(name: str, value: object, said: str):
    found = msgspec.structs.replace(QUIET, **{name: value})
    assert not found.kept
    assert said in describe(found)
