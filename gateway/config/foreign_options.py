"""Words that stand after others in HAProxy's lines, and values of its arguments, that are not words here: with answers.

From the lists of HAProxy 3.5's manual (§5.1, §5.2); LVS' and nftables' names for the ways to forward among them.
"""

from collections.abc import Mapping
from types import MappingProxyType

from gateway.config.foreign_words import ALL_TO_ONE, HAPROXY, KEEPALIVED, NO_HTTP, NO_TLS, Words, words

_SOURCE = "managers see the gateway's address, or the client's with 'forward proxy transparent' in the backend"
_NO_PROXY = f"{HAPROXY}: HTCondor does not read the PROXY protocol, write 'forward proxy transparent'"
_OWN_CHECK = f"{HAPROXY}: each node checks the collector of its own host, at the server's address and port"
_LITERAL = f"{HAPROXY}: addresses are literals, because DNS may be what is down"
_KERNEL = f"{HAPROXY}: what the kernel does by itself is right here, or is set for the whole host"

_TLS_OF_BOTH = (
    "ssl crt ca-file crl-file ciphers ciphersuites client-sigalgs sigalgs curves verify alpn npn allow-0rtt ktls "
    "force-sslv3 force-tlsv10 force-tlsv11 force-tlsv12 force-tlsv13 no-sslv3 no-tlsv10 no-tlsv11 no-tlsv12 no-tlsv13 "
    "ssl-max-ver ssl-min-ver tls-tickets no-tls-tickets renegotiate no-renegotiate"
)

_SERVER = words(
    ("weight", f"{HAPROXY}: one manager is elected, the order of the servers is the order of preference"),
    ("maxconn minconn", f"{HAPROXY}: write 'maxconn' in the frontend, the elected manager has all of them"),
    ("maxqueue", f"{HAPROXY}: who waits for an election counts in the frontend's 'maxconn'"),
    (
        "fastinter downinter",
        f"{HAPROXY}: a check asks the collector of the node's own host, let 'inter' be as short as a failing one needs",
    ),
    ("slowstart hash-key shard stick non-stick redir", ALL_TO_ONE),
    ("on-marked-down on-marked-up", f"{HAPROXY}: connections to a manager that lost its election are always closed"),
    ("track", f"{HAPROXY}: each server has its own check"),
    ("observe on-error error-limit", f"{HAPROXY}: only checks decide"),
    ("init-state", f"{HAPROXY}: 'rise' checks bring a server up"),
    (
        "agent-check no-agent-check agent-send agent-inter agent-addr agent-port",
        f"{HAPROXY}: a node runs on every manager and knows",
    ),
    ("send-proxy send-proxy-v2 send-proxy-v2-ssl send-proxy-v2-ssl-cn proxy-v2-options", _NO_PROXY),
    ("no-send-proxy no-send-proxy-v2 no-send-proxy-v2-ssl no-send-proxy-v2-ssl-cn check-send-proxy", _NO_PROXY),
    ("source usesrc interface", f"{HAPROXY}: {_SOURCE}"),
    ("port", f"{HAPROXY}: the port that serves is the port that is checked"),
    ("addr", f"{HAPROXY}: the address that serves is the address that is checked"),
    ("healthcheck check-proto check-alpn check-via-socks4 check-reuse-pool no-check-reuse-pool", _OWN_CHECK),
    ("check-pool-conn-name", _OWN_CHECK),
    ("check-ssl no-check-ssl check-sni check-sni-auto no-check-sni-auto", NO_TLS),
    (f"{_TLS_OF_BOTH} no-ssl sni sni-auto no-sni-auto ssl-reuse no-ssl-reuse verifyhost no-verifyhost", NO_TLS),
    ("cookie max-reuse pool-conn-name pool-low-conn pool-max-conn pool-purge-delay proto ws idle-ping", NO_HTTP),
    ("resolvers init-addr resolve-opts resolve-prefer resolve-net", _LITERAL),
    ("id guid", f"{HAPROXY}: a server is known by its name"),
    ("tfo no-tfo tcp-ut tcp-md5sig cc quic-cc-algo namespace socks4 strict-maxconn log-proto log-bufsize", _KERNEL),
)

_BIND = words(
    (_TLS_OF_BOTH, NO_TLS),
    ("ca-ignore-err ca-sign-file ca-sign-pass ca-verify-file crt-ignore-err crt-list default-crt ecdhe ech", NO_TLS),
    (
        "generate-certificates no-alpn no-ca-names no-strict-sni strict-sni prefer-client-ciphers tls-ticket-keys",
        NO_TLS,
    ),
    ("quic-cc-algo quic-force-retry quic-socket", NO_HTTP),
    (
        "transparent",
        f"{HAPROXY}: an address that is elsewhere can always be bound; for the client's address to be seen by the "
        "managers write 'forward proxy transparent'",
    ),
    ("interface namespace", f"{HAPROXY}: the address section names the interface"),
    ("accept-proxy accept-netscaler-cip", f"{HAPROXY}: HTCondor does not speak the PROXY protocol"),
    ("maxconn", f"{HAPROXY}: write it on a line of its own, for the whole frontend"),
    ("backlog", f"{HAPROXY}: the relay asks for 4096, and net.core.somaxconn is what the kernel grants"),
    ("name id guid-prefix label", f"{HAPROXY}: a bind is known by its address and port"),
    ("process thread shards nbconn nice", f"{HAPROXY}: every relay process listens; write 'relay-workers'"),
    (
        "mode user group uid gid level severity-output expose-fd",
        f"{HAPROXY}: a bind is an address; for a UNIX socket write 'stats socket' in the global section",
    ),
    ("v4v6 v6only", f"{HAPROXY}: an address section has one address, of one version"),
    ("tfo tcp-ut tcp-md5sig tcp-ss mss cc defer-accept idle-ping", _KERNEL),
)

_STATS_SOCKET = words(
    ("uid gid", f"{HAPROXY}: write 'user' and 'group', with names"),
    ("process expose-fd", f"{HAPROXY}: a reload hands listeners over by itself"),
    ("severity-output ssl crt accept-proxy", f"{HAPROXY}: a stats socket is a UNIX socket, of this host alone"),
)

_LOG = words(
    (
        "local0 local1 local2 local3 local4 local5 local6 local7 daemon user syslog auth",
        f"{HAPROXY}: systemd's journal takes standard output and files it by unit",
    ),
    ("raw rfc3164 rfc5424 iso timed priority", f"{HAPROXY}: write 'format json', 'format console' or 'format short'"),
    ("len sample profile facility", f"{HAPROXY}: every event is logged, and whole"),
)

_LOG_FORMATS = words(
    ("raw rfc3164 rfc5424 iso timed priority local", f"{HAPROXY}: write 'json', 'console' or 'short'"),
)

_FORWARD = words(
    ("usesrc", f"{HAPROXY}: write 'transparent'"),
    ("masquerade", "is not needed: managers see the gateway's address unless 'transparent' stands here"),
)

LINE_OPTIONS: Mapping[str, Words] = MappingProxyType(
    {
        "server": _SERVER,
        "default-server": _SERVER,
        "bind": _BIND,
        "log": _LOG,
        "forward": _FORWARD,
        "stats socket": _STATS_SOCKET,
    }
)

# Values of one argument.
_ELECTED = f"{HAPROXY}: two matchmakers at a time match the same slot twice, write 'balance elected'"
BALANCES = words(
    ("roundrobin static-rr leastconn first source random hash uri url_param hdr rdp-cookie log-hash sticky", _ELECTED),
    (
        "rr wrr lc wlc lblc lblcr sh mh dh fo ovf sed nq",
        "is known in LVS, not here: two matchmakers at a time match the same slot twice, write 'balance elected'",
    ),
)
FORWARDS = words(
    ("tcp", f"{HAPROXY}: protocols are said by the frontend, write 'forward proxy'"),
    ("NAT", f"{KEEPALIVED}: write 'forward nat'"),
    ("masq", "is known in LVS, not here: write 'forward nat'"),
    ("dnat", "is a word of nftables: write 'forward nat'"),
    ("DR dr", f"{KEEPALIVED}: write 'forward direct'"),
    ("dsr", "is another name for direct return: write 'forward direct'"),
    ("gate", "is known in LVS, not here: write 'forward direct'"),
    ("TUN tun", f"{KEEPALIVED}: across routers write 'forward nat' or 'forward proxy'"),
    ("ipip", "is known in LVS, not here: across routers write 'forward nat' or 'forward proxy'"),
    ("tproxy", "is a word of nftables: write 'forward proxy transparent'"),
    ("transparent", "stands behind the way to forward: write 'forward proxy transparent'"),
)
LOG_TARGETS = words(
    ("global", f"{HAPROXY}: write 'log stdout' in the global section"),
    ("stderr fd@1 fd@2", f"{HAPROXY}: write 'log stdout'"),
    ("/dev/log 127.0.0.1 localhost ::1", f"{HAPROXY}: write 'log stdout', systemd's journal takes it"),
)
LOG_FORMATS = _LOG_FORMATS
MODES = words(
    ("http", f"{HAPROXY}: HTCondor's clients do not speak HTTP, write 'mode tcp'"),
    ("udp", f"{HAPROXY}: protocols are said by each bind, as in 'bind pool-vip:9618 proto tcp,udp'; write 'mode tcp'"),
    ("log health haterm spop", f"{HAPROXY}: a frontend and its backend carry HTCondor's traffic, write 'mode tcp'"),
)
