"""Words that operators know from HAProxy, keepalived or HTCondor, and that are not words here: each with its answer.

An answer completes the sentence `'word' ...`: who knows it, and what to write instead. It never ends in a full stop.
"""

from collections.abc import Mapping
from types import MappingProxyType

_HAPROXY = "is known in HAProxy, not here"
_KEEPALIVED = "is known in keepalived, not here"
_LATER = "is not in this version"
_SOURCE = "managers see the gateway's address, or the client's with 'forward proxy transparent' in the backend"
_WAY = "is a way to forward"


def _words(words: Mapping[str, str]) -> Mapping[str, str]:
    return MappingProxyType(dict(words))


SECTIONS = _words(
    {
        "defaults": f"{_HAPROXY}: write each keyword in its own section (for servers, default-server)",
        "listen": f"{_HAPROXY}: write a frontend and a backend",
        "resolvers": f"{_HAPROXY}: addresses are literals, because DNS may be what is down",
        "mailers": f"{_HAPROXY}: write 'notify command' in the global section",
        "ring": f"{_HAPROXY}: log events go to standard output",
        "cache": f"{_HAPROXY}: bytes pass verbatim, nothing is cached",
        "program": f"{_HAPROXY}: let systemd run other programs",
        "userlist": f"{_HAPROXY}: the cluster's key is the only credential",
        "http-errors": f"{_HAPROXY}: HTCondor's clients do not speak HTTP",
        "log-forward": f"{_HAPROXY}: log events go to standard output",
        "vrrp_instance": f"{_KEEPALIVED}: write an address section and, for its peers, a peers section",
        "vrrp_script": f"{_KEEPALIVED}: managers are checked by 'option condor-check'",
        "vrrp_sync_group": f"{_KEEPALIVED}: all addresses of a cluster are held by one elected gateway",
        "virtual_server": f"{_KEEPALIVED}: write a frontend and a backend",
        "global_defs": f"{_KEEPALIVED}: write a global section",
        "election": f"{_LATER}: heartbeat and lease stand in the peers section",
        "replication": f"{_LATER}: write 'replicate accounting' in the backend",
        "pool": f"{_LATER}: write a backend",
    }
)

# In any section: a word here names one thing wherever it is written.
KEYWORDS = _words(
    {
        "mode": f"{_HAPROXY}: protocols are said by the frontend, as in 'bind pool-vip:9618 proto tcp,udp'",
        "fullconn": f"{_HAPROXY}: write 'maxconn' in the frontend",
        "maxconnrate": f"{_HAPROXY}: write 'maxconn-per-source' in the frontend",
        "maxsessrate": f"{_HAPROXY}: write 'maxconn-per-source' in the frontend",
        "rate-limit": f"{_HAPROXY}: write 'maxconn-per-source' in the frontend",
        "maxpipes": f"{_HAPROXY}: pipes for splicing are lent to the connections that move much",
        "nosplice": f"{_HAPROXY}: what is small is copied, and only bulk is spliced",
        "backlog": f"{_HAPROXY}: the relay asks for 4096, and net.core.somaxconn is what the kernel grants",
        "ulimit-n": f"{_HAPROXY}: the limit is raised as far as it goes; raise that by LimitNOFILE in the systemd unit",
        "fd-hard-limit": f"{_HAPROXY}: write LimitNOFILE in the systemd unit",
        "hard-stop-after": f"{_HAPROXY}: write 'timeout drain' in the backend",
        "grace": f"{_HAPROXY}: write 'timeout drain' in the backend",
        "cpu-map": f"{_HAPROXY}: write CPUAffinity in the systemd unit",
        "thread-groups": f"{_HAPROXY}: write 'relay-workers' in the global section",
        "use_backend": f"{_HAPROXY}: a frontend has one backend, its default_backend",
        "acl": f"{_HAPROXY}: bytes pass verbatim, nothing is matched on",
        "http-request": f"{_HAPROXY}: HTCondor's clients do not speak HTTP",
        "tcp-request": f"{_HAPROXY}: bytes pass verbatim, nothing is inspected",
        "tcp-check": f"{_HAPROXY}: write 'option condor-check'",
        "stick-table": f"{_HAPROXY}: all clients go to the elected manager",
        "stick": f"{_HAPROXY}: all clients go to the elected manager",
        "source": f"{_HAPROXY}: {_SOURCE}",
        "usesrc": f"{_HAPROXY}: {_SOURCE}",
        "retries": f"{_HAPROXY}: a connection is held for 'timeout queue' and then closed; HTCondor retries",
        "default-bind": f"{_HAPROXY}: write the options on each bind",
        "table": f"{_HAPROXY}: all clients go to the elected manager",
        "stats": f"{_HAPROXY}: write a console section for a status page, or 'stats socket' in the global section",
        "daemon": f"{_HAPROXY}: condor-gateway stays in the foreground, systemd puts it in the background",
        "user": f"{_HAPROXY}: the control process needs its capabilities as long as it runs",
        "group": f"{_HAPROXY}: the control process needs its capabilities as long as it runs",
        "chroot": f"{_HAPROXY}: restrict the service in its systemd unit",
        "nbthread": f"{_HAPROXY}: write 'relay-workers' in the global section, processes of one thread each",
        "nbproc": f"{_HAPROXY}: write 'relay-workers' in the global section",
        "pidfile": f"{_HAPROXY}: systemd knows the process",
        "description": f"{_HAPROXY}: write a comment",
        "log-format": f"{_HAPROXY}: write 'log stdout format json' or 'console'",
        "server-template": f"{_HAPROXY}: name each server, as its peer is named",
        "real_server": f"{_KEEPALIVED}: write 'server NAME ADDRESS:PORT' in a backend",
        "lb_kind": f"{_KEEPALIVED}: write 'forward nat' for its NAT, 'forward direct' for its DR, in the backend",
        "lvs_method": f"{_KEEPALIVED}: write 'forward nat' for its NAT, 'forward direct' for its DR, in the backend",
        "lb_algo": f"{_KEEPALIVED}: write 'balance elected'",
        "lvs_sched": f"{_KEEPALIVED}: write 'balance elected'",
        "persistence_timeout": f"{_KEEPALIVED}: all clients go to the elected manager",
        "virtual_router_id": f"{_KEEPALIVED}: clusters are told apart by their name and key",
        "virtual_ipaddress": f"{_KEEPALIVED}: write 'ip ADDRESS/PREFIX dev INTERFACE' in an address section",
        "priority": f"{_KEEPALIVED}: the order of 'holder' and of the servers is the order of preference",
        "state": f"{_KEEPALIVED}: who leads is elected",
        "interface": f"{_KEEPALIVED}: write it after the address, as in 'ip 10.0.0.100/32 dev eth0'",
        "advert_int": f"{_KEEPALIVED}: write 'heartbeat' in the peers section",
        "unicast_peer": f"{_KEEPALIVED}: write 'peer NAME ADDRESS:PORT ROLE' in the peers section",
        "authentication": f"{_KEEPALIVED}: every heartbeat is sealed with the key file",
        "auth_pass": f"{_KEEPALIVED}: every heartbeat is sealed with the key file",
        "auth_hmac": f"{_KEEPALIVED}: every heartbeat is sealed with the key file",
        "nopreempt": f"{_KEEPALIVED}: a returning node never disturbs a healthy leader",
        "preempt_delay": f"{_KEEPALIVED}: a returning node never disturbs a healthy leader",
        "garp_master_delay": f"{_KEEPALIVED}: an address is announced at once, and again and again",
        "garp_master_refresh": f"{_KEEPALIVED}: an address is announced at once, and again and again",
        "garp_master_repeat": f"{_KEEPALIVED}: an address is announced at once, and again and again",
        "track_script": f"{_KEEPALIVED}: managers are checked by 'option condor-check'",
        "track_interface": f"{_LATER}: a gateway whose interface is down is cut off and loses its lease",
        "track": f"{_LATER}: managers are checked by 'option condor-check'",
        "notify_master": f"{_KEEPALIVED}: write 'notify command' in the global section, it is told of every change",
        "notify_backup": f"{_KEEPALIVED}: write 'notify command' in the global section, it is told of every change",
        "notify_fault": f"{_KEEPALIVED}: write 'notify command' in the global section, it is told of every change",
        "dispatch": f"{_HAPROXY}: write a server",
        "transparent": "stands behind the way to forward: write 'forward proxy transparent' in the backend",
        "direct": f"{_WAY}: write 'forward direct'",
        "nat": f"{_WAY}: write 'forward nat'",
    }
)

# After the first word of a keyword of two words, as in `timeout client`.
TIMEOUTS = _words(
    {
        "server": f"{_HAPROXY}: write 'timeout client' in the frontend, it counts both sides",
        "tunnel": f"{_HAPROXY}: write 'timeout client' in the frontend, it counts both sides",
        "check": f"{_HAPROXY}: a check takes at most its 'inter'",
        "client-fin": f"{_HAPROXY}: a half-closed connection goes on until both have closed it, or 'timeout client'",
        "server-fin": f"{_HAPROXY}: a half-closed connection goes on until both have closed it, or 'timeout client'",
        "http-request": f"{_HAPROXY}: write 'timeout client-hello' in the frontend, for who connects and says nothing",
        "http-keep-alive": f"{_HAPROXY}: HTCondor's clients do not speak HTTP",
    }
)

OPTIONS = _words(
    {
        "httpchk": f"{_HAPROXY}: write 'option condor-check'",
        "tcp-check": f"{_HAPROXY}: write 'option condor-check', a port that is open says little of a collector",
        "httplog": f"{_HAPROXY}: HTCondor's clients do not speak HTTP",
        "dontlognull": f"{_HAPROXY}: connections are counted, not logged",
        "redispatch": f"{_HAPROXY}: all clients go to the elected manager",
        "transparent": f"{_HAPROXY}: write 'forward proxy transparent'",
        "splice-auto": f"{_HAPROXY}: what is small is copied, and bulk is spliced",
        "nolinger": f"{_HAPROXY}: at a switch connections are reset, and otherwise they end as their ends do",
        "tcpka": f"{_HAPROXY}: the relay finds dead connections by itself",
        "clitcpka": f"{_HAPROXY}: the relay finds dead connections by itself",
        "srvtcpka": f"{_HAPROXY}: the relay finds dead connections by itself",
        "log-health-checks": f"{_HAPROXY}: checks are logged as events",
    }
)

REPLICATED = _words({"spool": f"{_LATER}: write 'replicate accounting', and 'replicate file PATH' for each other file"})

SECOND_WORDS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {"timeout": TIMEOUTS, "option": OPTIONS, "replicate": REPLICATED}
)

# Options of a line, by its keyword.
_SERVER = _words(
    {
        "weight": f"{_HAPROXY}: one manager is elected, the order of the servers is the order of preference",
        "backup": f"{_HAPROXY}: all but the elected manager stand by",
        "disabled": f"{_LATER}: leave the server out",
        "maxconn": f"{_HAPROXY}: write 'maxconn' in the frontend, the elected manager has all of them",
        "maxqueue": f"{_HAPROXY}: who waits for an election counts in the frontend's 'maxconn'",
        "fastinter": f"{_LATER}: set 'inter' as short as a failing server needs it",
        "downinter": f"{_LATER}: a check of a server that is down costs nothing",
        "slowstart": f"{_HAPROXY}: all clients go to the elected manager",
        "on-marked-down": f"{_HAPROXY}: connections to a manager that lost its election are always closed",
        "track": f"{_HAPROXY}: each server has its own check",
        "observe": f"{_HAPROXY}: only checks decide",
        "init-state": f"{_HAPROXY}: 'rise' checks bring a server up",
        "agent-check": f"{_HAPROXY}: a node runs on every manager and knows",
        "send-proxy": f"{_HAPROXY}: HTCondor does not read the PROXY protocol",
        "send-proxy-v2": f"{_HAPROXY}: HTCondor does not read the PROXY protocol",
        "source": f"{_HAPROXY}: {_SOURCE}",
        "usesrc": f"{_HAPROXY}: {_SOURCE}",
        "port": f"{_HAPROXY}: the port that serves is the port that is checked",
        "addr": f"{_HAPROXY}: the address that serves is the address that is checked",
        "ssl": f"{_HAPROXY}: HTCondor encrypts by itself, and bytes pass verbatim",
        "cookie": f"{_HAPROXY}: HTCondor's clients do not speak HTTP",
    }
)

_BIND = _words(
    {
        "ssl": f"{_HAPROXY}: HTCondor encrypts by itself, and bytes pass verbatim",
        "transparent": f"{_HAPROXY}: an address that is elsewhere can always be bound; for the client's address to be "
        "seen by the managers write 'forward proxy transparent'",
        "interface": f"{_HAPROXY}: the address section names the interface",
        "accept-proxy": f"{_HAPROXY}: HTCondor does not speak the PROXY protocol",
        "maxconn": f"{_HAPROXY}: write it on a line of its own, for the whole frontend",
        "backlog": f"{_HAPROXY}: the relay asks for 4096, and net.core.somaxconn is what the kernel grants",
        "name": f"{_HAPROXY}: a bind is known by its address and port",
    }
)

_LOG = _words(
    {
        "local0": f"{_HAPROXY}: systemd's journal takes standard output and files it by unit",
        "daemon": f"{_HAPROXY}: systemd's journal takes standard output and files it by unit",
        "raw": f"{_HAPROXY}: write 'format json' or 'format console'",
    }
)

_FORWARD = _words(
    {
        "usesrc": f"{_HAPROXY}: write 'transparent'",
        "masquerade": "is not needed: managers see the gateway's address unless 'transparent' stands here",
    }
)

LINE_OPTIONS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {"server": _SERVER, "default-server": _SERVER, "bind": _BIND, "log": _LOG, "forward": _FORWARD}
)

# Values of one argument.
_ELECTED = f"{_HAPROXY}: two matchmakers at a time match the same slot twice, write 'balance elected'"
BALANCES = _words(
    dict.fromkeys(("roundrobin", "static-rr", "leastconn", "first", "source", "random", "hash"), _ELECTED)
)
FORWARDS = _words(
    {
        "tcp": f"{_HAPROXY}: protocols are said by the frontend, write 'forward proxy'",
        "NAT": f"{_KEEPALIVED}: write 'forward nat'",
        "masq": "is known in LVS, not here: write 'forward nat'",
        "dnat": "is a word of nftables: write 'forward nat'",
        "DR": f"{_KEEPALIVED}: write 'forward direct'",
        "dr": f"{_KEEPALIVED}: write 'forward direct'",
        "dsr": "is another name for direct return: write 'forward direct'",
        "gate": "is known in LVS, not here: write 'forward direct'",
        "TUN": f"{_KEEPALIVED}: across routers write 'forward nat' or 'forward proxy'",
        "tun": f"{_KEEPALIVED}: across routers write 'forward nat' or 'forward proxy'",
        "ipip": "is known in LVS, not here: across routers write 'forward nat' or 'forward proxy'",
        "tproxy": "is a word of nftables: write 'forward proxy transparent'",
        "transparent": "stands behind the way to forward: write 'forward proxy transparent'",
    }
)
LOG_TARGETS = _words(
    {
        "global": f"{_HAPROXY}: write 'log stdout' in the global section",
        "stderr": f"{_HAPROXY}: write 'log stdout'",
        "/dev/log": f"{_HAPROXY}: write 'log stdout', systemd's journal takes it",
        "127.0.0.1": f"{_HAPROXY}: write 'log stdout', systemd's journal takes it",
    }
)
