"""Words of HAProxy's sections that are not words here: keywords, options and timeouts, with their answers.

From the lists of HAProxy 3.5's manual (§3, §4.1, §12), and some that it has dropped and old files still have.
"""

from gateway.config.foreign_words import ALL_TO_ONE, HAPROXY, NO_HTTP, NO_TLS, VERBATIM, words

_SOURCE = "managers see the gateway's address, or the client's with 'forward proxy transparent' in the backend"
_JOURNAL = "log events go to standard output, and systemd's journal files them"
_UNIT = "in the systemd unit"
_CONSOLE = "write a console section for a status page, or 'stats socket' in the global section"
_ENVIRONMENT = f'{HAPROXY}: write Environment= {_UNIT}, and "${{NAME}}" here'
_CHECK = f"{HAPROXY}: write 'option condor-check'"
_NOTIFY = f"{HAPROXY}: write 'notify command' in the global section"
_TUNED = f"{HAPROXY}: there is nothing to tune, the relay's buffers grow and shrink with what is moved"
_CONDITION = f"{HAPROXY}: write 'include \"${{NAME}}.cfg\"', a variable chooses the file"
_NO_CONFIRM = f"{HAPROXY}: bytes pass verbatim, and neither clients nor managers are asked about them"
_PROCESS = f"{HAPROXY}: the relay's processes are counted by 'relay-workers', and the kernel deals clients out to them"

SECTIONS = words(
    ("resolvers", f"{HAPROXY}: addresses are literals, because DNS may be what is down"),
    ("mailers", _NOTIFY),
    ("ring log-forward log-profile", f"{HAPROXY}: {_JOURNAL}"),
    ("cache", f"{HAPROXY}: bytes pass verbatim, nothing is cached"),
    ("program", f"{HAPROXY}: let systemd run other programs"),
    ("userlist", f"{HAPROXY}: the cluster's key is the only credential, and the token of the console section"),
    ("http-errors fcgi-app", NO_HTTP),
    ("crt-store acme", NO_TLS),
    ("traces", f"{HAPROXY}: {_JOURNAL}"),
    ("healthcheck", _CHECK),
)

KEYWORDS = words(
    # conditions and messages of the file itself
    (".if .elif .else .endif", _CONDITION),
    (".diag .notice .warning .alert", f"{HAPROXY}: write a comment, and run 'condor-gateway check'"),
    ("presetenv setenv unsetenv resetenv set-var set-var-fmt", _ENVIRONMENT),
    # the process
    ("daemon", f"{HAPROXY}: condor-gateway stays in the foreground, systemd puts it in the background"),
    ("user group uid gid", f"{HAPROXY}: the control process needs its capabilities as long as it runs"),
    ("chroot", f"{HAPROXY}: restrict the service in its systemd unit"),
    ("nbthread thread-groups", f"{HAPROXY}: write 'relay-workers' in the global section, processes of one thread each"),
    ("nbproc", f"{HAPROXY}: write 'relay-workers' in the global section"),
    ("thread-group max-threads-per-group thread-hard-limit bind-process process", _PROCESS),
    ("pidfile", f"{HAPROXY}: systemd knows the process"),
    ("master-worker mworker-max-reloads mworker-prompt", f"{HAPROXY}: a guard starts the node and watches it, always"),
    ("ulimit-n", f"{HAPROXY}: the limit is raised as far as it goes; raise that by LimitNOFILE {_UNIT}"),
    ("fd-hard-limit strict-limits prealloc-fd", f"{HAPROXY}: write LimitNOFILE {_UNIT}"),
    ("hard-stop-after grace close-spread-time", f"{HAPROXY}: write 'timeout drain' in the backend"),
    ("cpu-map cpu-set cpu-policy cpu-affinity numa-cpu-mapping", f"{HAPROXY}: write CPUAffinity {_UNIT}"),
    ("set-dumpable insecure-fork-wanted insecure-setuid-wanted", f"{HAPROXY}: write LimitCORE or the like {_UNIT}"),
    ("node localpeer", f"{HAPROXY}: a host finds itself among the peers, or is told by 'run --node NAME'"),
    ("default-path", f"{HAPROXY}: write absolute paths; 'include' is relative to the file that has it"),
    ("expose-experimental-directives expose-deprecated-directives", f"{HAPROXY}: there are none"),
    ("cluster-secret", f"{HAPROXY}: write 'key-file' in the global section"),
    ("unix-bind", f"{HAPROXY}: write 'mode', 'user' and 'group' after each 'stats socket'"),
    (
        "stats-file server-state-base server-state-file server-state-file-name load-server-state-from-file",
        f"{HAPROXY}: a reload hands everything over by itself, and 'state-dir' keeps the rest",
    ),
    ("external-check dns-accept-family limited-quic harden.reject-privileged-ports.tcp", _NO_CONFIRM),
    ("harden.reject-privileged-ports.quic pp2-never-send-local", _NO_CONFIRM),
    ("quiet zero-warning", f"{HAPROXY}: write 'condor-gateway check --warnings-fatal', or '--quiet'"),
    ("anonkey", f"{HAPROXY}: keys are never shown, by no command"),
    ("debug debug.counters warn-blocked-traffic-after force-cfg-parser-pause", f"{HAPROXY}: {_JOURNAL}"),
    ("log-send-hostname log-tag", f"{HAPROXY}: {_JOURNAL}, with host and unit"),
    # tuning
    ("maxpipes", f"{HAPROXY}: pipes for splicing are lent to the connections that move much"),
    ("nosplice", f"{HAPROXY}: what is small is copied, and only bulk is spliced"),
    ("maxconnrate maxsessrate rate-limit", f"{HAPROXY}: write 'rate-per-source' in the frontend"),
    ("maxcomprate maxcompcpuusage maxzlibmem compression filter filter-sequence", VERBATIM),
    ("maxsslconn maxsslrate", NO_TLS),
    ("noepoll nopoll nokqueue noevports noreuseport nogetaddrinfo noktls no-memory-trimming", _TUNED),
    ("busy-polling profiling.memory profiling.tasks", _TUNED),
    ("spread-checks max-spread-checks", f"{HAPROXY}: each node checks the collector of its own host"),
    # traffic
    ("fullconn", f"{HAPROXY}: write 'maxconn' in the frontend"),
    ("backlog", f"{HAPROXY}: the relay asks for 4096, and net.core.somaxconn is what the kernel grants"),
    ("use_backend use-server", f"{HAPROXY}: a frontend has one backend, its default_backend"),
    ("force-be-switch be-unpublished", f"{HAPROXY}: a frontend has one backend, its default_backend"),
    ("acl", VERBATIM),
    ("http-request http-response http-after-response http-check http-error http-reuse", NO_HTTP),
    ("http-send-name-header redirect errorfile errorfiles errorloc errorloc302 errorloc303", NO_HTTP),
    ("cookie appsession capture declare monitor monitor-uri monitor-net use-fcgi-app", NO_HTTP),
    ("unique-id-format unique-id-header quic-initial h1-case-adjust h1-case-adjust-file", NO_HTTP),
    ("h1-accept-payload-with-any-method h1-do-not-close-on-insecure-transfer-encoding", NO_HTTP),
    ("h2-workaround-bogus-websocket-clients", NO_HTTP),
    ("tcp-request tcp-response", f"{HAPROXY}: bytes pass verbatim, nothing is inspected"),
    ("tcp-check", _CHECK),
    ("email-alert", _NOTIFY),
    ("stick-table stick table persist force-persist ignore-persist hash-type hash-balance-factor", ALL_TO_ONE),
    ("hash-preserve-affinity shards max-session-srv-conns max-keep-alive-queue", ALL_TO_ONE),
    ("source usesrc", f"{HAPROXY}: {_SOURCE}"),
    (
        "retries retry-on redispatch",
        f"{HAPROXY}: a connection is held for 'timeout queue' and then closed; HTCondor retries",
    ),
    ("default-bind", f"{HAPROXY}: write the options on each bind"),
    ("crt ca-base crt-base key-base issuers-chain-path", NO_TLS),
    ("stats", f"{HAPROXY}: {_CONSOLE}"),
    ("disabled", f"{HAPROXY}: put '#' before the lines of the section"),
    ("enabled", f"{HAPROXY}: what stands in the file is in force"),
    ("id guid", f"{HAPROXY}: sections and servers are known by their names"),
    (
        "log-format log-format-sd error-log-format log-steps",
        f"{HAPROXY}: write 'log stdout format json' in the global section, and 'option tcplog' in the frontend",
    ),
    ("server-template", f"{HAPROXY}: name each server, as its peer is named"),
    ("dispatch", f"{HAPROXY}: write a server"),
    (
        "clitcpka-cnt clitcpka-idle clitcpka-intvl srvtcpka-cnt srvtcpka-idle srvtcpka-intvl",
        f"{HAPROXY}: the relay finds dead connections by itself",
    ),
    ("contimeout", f"{HAPROXY}: write 'timeout connect' in the backend"),
    ("clitimeout srvtimeout", f"{HAPROXY}: write 'timeout client' in the frontend, it counts both sides"),
    ("block reqadd reqrep rspadd rspdel", NO_HTTP),
)

# Whatever begins so: HAProxy has hundreds of each.
PREFIXES = words(
    ("tune.", _TUNED),
    ("ssl- ocsp-update. jwt. acme.", NO_TLS),
    ("lua-", f"{HAPROXY}: bytes pass verbatim, no script sees them"),
    ("51degrees- deviceatlas- wurfl- httpclient. http- h2- quic-", NO_HTTP),
)

# After the first word of a keyword of two words, as in `timeout client`.
TIMEOUTS = words(
    ("server tunnel", f"{HAPROXY}: write 'timeout client' in the frontend, it counts both sides"),
    ("check", f"{HAPROXY}: a check takes at most its 'inter'"),
    (
        "client-fin server-fin",
        f"{HAPROXY}: a half-closed connection goes on until both have closed it, or 'timeout client'",
    ),
    ("http-request", f"{HAPROXY}: write 'timeout client-hello' in the frontend, for who connects and says nothing"),
    ("http-keep-alive", NO_HTTP),
    ("client-hs", NO_TLS),
    ("tarpit", f"{HAPROXY}: who is refused is refused at once"),
    ("clitimeout", f"{HAPROXY}: write 'timeout client' in the frontend"),
)

OPTIONS = words(
    ("httpchk smtpchk ldap-check mysql-check pgsql-check redis-check spop-check ssl-hello-chk", _CHECK),
    ("external-check", _CHECK),
    ("tcp-check", f"{HAPROXY}: write 'option condor-check', a port that is open says little of a collector"),
    ("httplog httpslog", f"{HAPROXY}: HTCondor's clients do not speak HTTP, write 'option tcplog'"),
    (
        "dontlognull dontlog-normal logasap log-separate-errors",
        f"{HAPROXY}: 'option tcplog' logs each connection at its end, and the rest is counted",
    ),
    ("log-health-checks", f"{HAPROXY}: checks are logged as events"),
    ("redispatch persist prefer-last-server allbackups", ALL_TO_ONE),
    ("abortonclose", f"{HAPROXY}: who gives up while he is held is forgotten at once"),
    ("transparent", f"{HAPROXY}: write 'forward proxy transparent'"),
    ("splice-auto splice-request splice-response", f"{HAPROXY}: what is small is copied, and bulk is spliced"),
    ("nolinger", f"{HAPROXY}: at a switch connections are reset, and otherwise they end as their ends do"),
    ("tcpka clitcpka srvtcpka", f"{HAPROXY}: the relay finds dead connections by itself"),
    ("contstats socket-stats", f"{HAPROXY}: bytes are counted while they are moved"),
    ("idle-close-on-response independent-streams tcp-smart-accept tcp-smart-connect use-small-buffers", _TUNED),
    ("checkcache disable-h2-upgrade forwardfor forwarded originalto httpclose forceclose", NO_HTTP),
    ("h1-case-adjust-bogus-client h1-case-adjust-bogus-server http-buffer-request", NO_HTTP),
    ("http-drop-request-trailers http-drop-response-trailers http-ignore-probes http-keep-alive", NO_HTTP),
    ("http-no-delay http-pretend-keepalive http-restrict-req-hdr-names http-server-close", NO_HTTP),
    ("http-use-proxy-header http_proxy http-use-htx http-tunnel accept-invalid-http-request", NO_HTTP),
    ("accept-invalid-http-response accept-unsafe-violations-in-http-request", NO_HTTP),
    ("accept-unsafe-violations-in-http-response", NO_HTTP),
)

STATS = words(
    ("admin", f"{HAPROXY}: write a console section with 'admin token-file', or 'level admin' after 'stats socket'"),
    (
        "auth enable realm uri refresh hide-version show-desc show-legends show-node show-version scope show-modules",
        f"{HAPROXY}: write a console section, it is a status page",
    ),
    ("http-request", f"{HAPROXY}: write a console section, it is a status page"),
    ("timeout maxconn", f"{HAPROXY}: a stats socket has limits of its own, and lets go of who is silent"),
    ("bind-process", _PROCESS),
)
