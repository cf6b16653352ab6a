"""The keyword table: every section and keyword of the language, as data. The parser and the help read it; no rule here.

A default is written as it would be in the file, and passes through the same parser.
"""

from collections.abc import Mapping
from types import MappingProxyType

from gateway.config.limits import ADDRESSES_MAX, BACKENDS_MAX, DEFAULTS_MAX, FRONTENDS_MAX, LISTENS_MAX
from gateway.config.schema import SectionKind
from gateway.config.table_cluster import ADDRESS, PEERS
from gateway.config.table_node import CONSOLE, GLOBAL
from gateway.config.table_traffic import BACKEND, DEFAULTS, FRONTEND, LISTEN

SECTIONS: Mapping[str, SectionKind] = MappingProxyType(
    {
        section.word: section
        for section in (
            SectionKind(word="global", help="the node itself", named=False, single=True, count_max=1, keywords=GLOBAL),
            SectionKind(
                word="console",
                help="the status page, the metrics and their address",
                named=False,
                single=True,
                count_max=1,
                required=False,
                keywords=CONSOLE,
            ),
            SectionKind(
                word="peers", help="who belongs to it and votes", named=True, single=True, count_max=1, keywords=PEERS
            ),
            SectionKind(
                word="address",
                help="a virtual address",
                named=True,
                single=False,
                count_max=ADDRESSES_MAX,
                keywords=ADDRESS,
            ),
            SectionKind(
                word="defaults",
                help="what holds for the frontends and backends after it",
                named=False,
                nameable=True,
                inherits=True,
                single=False,
                count_max=DEFAULTS_MAX,
                required=False,
                keywords=DEFAULTS,
            ),
            SectionKind(
                word="frontend",
                help="what clients connect to",
                named=True,
                single=False,
                count_max=FRONTENDS_MAX,
                required=False,  # an address alone is of use: what answers on it may be another program's
                inherits=True,
                keywords=FRONTEND,
            ),
            SectionKind(
                word="backend",
                help="the central managers",
                named=True,
                single=False,
                count_max=BACKENDS_MAX,
                required=False,
                inherits=True,
                keywords=BACKEND,
            ),
            SectionKind(
                word="listen",
                help="a frontend and its backend in one",
                named=True,
                single=False,
                count_max=LISTENS_MAX,
                required=False,
                inherits=True,
                keywords=LISTEN,
            ),
        )
    }
)
