"""Configurations for the tests of the language: the shipped sample, and ways to change one line of it."""

from pathlib import Path

from gateway.config import Loaded, Severity, load

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = REPOSITORY / "haproxy-like-config"
BROKEN = EXAMPLES / "broken"
ENVIRONMENT = {"SITE_NAME": "physics"}  # what `broken/variables.cfg` may use

SAMPLE = """\
global
    cluster physics-pool
    key-file /etc/condor-gateway/cluster.key
    state-dir /var/lib/condor-gateway
    log stdout format json

peers lan
    heartbeat 50ms
    lease 300ms
    peer gw1 10.77.0.91:9619 gateway
    peer gw2 10.77.0.92:9619 gateway
    peer cm1 10.77.0.11:9619 manager
    peer cm2 10.77.0.12:9619 manager
    peer cm3 10.77.0.13:9619 manager

address pool-vip
    ip 10.77.0.100/32 dev eth0
    holder gw1 gw2

frontend matchmaker
    bind pool-vip:9618 proto tcp,udp
    default_backend managers

backend managers
    balance elected
    forward proxy
    option condor-check
    timeout connect 2s
    default-server check inter 100ms fall 3 rise 2
    server cm1 10.77.0.11:9618
    server cm2 10.77.0.12:9618
    server cm3 10.77.0.13:9618
    negotiator on-elected
    warm-standby on
    replicate accounting
"""


def sample(*changes: tuple[str, str]) -> str:
    """Return the sample with each old text, which must be there, replaced once by its new text."""
    text = SAMPLE
    for old, new in changes:
        assert old in text, f"{old!r} is not in the sample"
        text = text.replace(old, new, 1)
    return text


def load_sample(*changes: tuple[str, str], environment: dict[str, str] | None = None) -> Loaded:
    return load(sample(*changes), "gateway.cfg", environment or {})


def errors(loaded: Loaded) -> list[str]:
    assert (loaded.settings is None) == any(found.severity is Severity.ERROR for found in loaded.diagnostics)
    return [found.message for found in loaded.diagnostics if found.severity is Severity.ERROR]


def warnings(loaded: Loaded) -> list[str]:
    return [found.message for found in loaded.diagnostics if found.severity is Severity.WARNING]
