"""Limits: how many of each thing a configuration may hold. Every figure has its reason beside it."""

PEERS_MAX = 9  # quorum arithmetic is tested exhaustively up to here
ADDRESSES_MAX = 16  # each has a fence and its own announcements; a pool needs one
FRONTENDS_MAX = 32  # a pool needs one or two
BACKENDS_MAX = PEERS_MAX  # each has managers of its own
BINDS_MAX = 16  # of one frontend
CONNECTIONS_MAX = 500_000  # of a frontend, in file descriptors: two each, and fs.nr_open allows a process 1,048,576
SOURCE_AUTO = -1  # `maxconn-per-source auto`, until it is computed from `maxconn`
SOURCE_AUTO_MIN = 16  # what it is at least, however few connections a frontend may have
RATE_MAX = 1_000_000  # new connections a second of one client: more than any kernel takes
WORKERS_MAX = 64  # more than that cost more memory than a host with so many cores gains by them
REPLICATED_FILES_MAX = 16  # of one backend: each is watched, and copied in whole when it changes
ELECTIONS_MAX = 16  # addresses and backends: a heartbeat carries as many, `gateway.wire.heartbeat` has the same figure
STATS_SOCKETS_MAX = 8  # one for each level of rights, and some for exporters
NOTIFY_COMMANDS_MAX = 8  # they run one after the other: more would be told late
COMMAND_WORDS_MAX = 32  # of a command; what needs more is a script
CONSOLE_HOSTS_MAX = 32  # names under which the page may be asked for
TEXT_CHARACTERS_MAX = 262_144  # a full configuration has 4,000; anything this long is some other file
INCLUDED_FILES_MAX = 64  # in all: one for each section that a configuration may have, and some
INCLUDES_DEEP_MAX = 8  # who goes on after that is lost, or goes round in a circle of links
DEFAULTS_MAX = 32  # one for each frontend
LISTENS_MAX = 9  # each is a backend
