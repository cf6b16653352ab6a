"""Columns of `show stat`: HAProxy's static ones in HAProxy's order, a dash, and then our own.

Rule: nothing is ever inserted before the dash: tools count positions (HAProxy's management.txt, section 9.1). A tag
says origin, nature and scope of a value (section 9.2).
"""

from typing import Final, NamedTuple


class Column(NamedTuple):
    """A column: its name, its tag (`MGP`: metric, gauge, process), the type of its values."""

    name: str
    tag: str
    type: str


def _table(text: str) -> tuple[Column, ...]:
    return tuple(Column(*line.split()) for line in text.strip().splitlines())


STATIC: Final = _table("""
pxname KNS str
svname KNS str
qcur MGP u32
qmax MMP u32
scur MGP u32
smax MMP u32
slim CLP u32
stot MCP u64
bin MCP u64
bout MCP u64
dreq MCP u64
dresp MCP u64
ereq MCP u64
econ MCP u64
eresp MCP u64
wretr MCP u64
wredis MCP u64
status SGP str
weight MaP u32
act SGP u32
bck SGP u32
chkfail MCP u64
chkdown MCP u64
lastchg MAP u32
downtime MCP u32
qlimit CLS u32
pid KGP u32
iid KGS u32
sid KGS u32
throttle CGP u32
lbtot MCP u64
tracked CNS str
type CGS u32
rate MRP u32
rate_lim CLP u32
rate_max MMP u32
check_status MOP str
check_code MOP u32
check_duration MDP u64
hrsp_1xx MCP u64
hrsp_2xx MCP u64
hrsp_3xx MCP u64
hrsp_4xx MCP u64
hrsp_5xx MCP u64
hrsp_other MCP u64
hanafail MCP u64
req_rate MRP u32
req_rate_max MMP u32
req_tot MCP u64
cli_abrt MCP u64
srv_abrt MCP u64
comp_in MCP u64
comp_out MCP u64
comp_byp MCP u64
comp_rsp MCP u64
lastsess MAP s32
last_chk MOP str
last_agt MOP str
qtime MaP u32
ctime MaP u32
rtime MaP u32
ttime MaP u32
agent_status MOP str
agent_code MOP u32
agent_duration MDP u64
check_desc MOP str
agent_desc MOP str
check_rise CGS u32
check_fall CGS u32
check_health CGS u32
agent_rise CGS u32
agent_fall CGS u32
agent_health CGS u32
addr CGS str
cookie CNS str
mode CGS str
algo CGS str
conn_rate MRP u32
conn_rate_max MMP u32
conn_tot MCP u64
intercepted MCP u64
dcon MCP u64
dses MCP u64
wrew MCP u64
connect MCP u64
reuse MCP u64
cache_lookups MCP u64
cache_hits MCP u64
srv_icur MGP u32
src_ilim CLP u32
qtime_max MMP u32
ctime_max MMP u32
rtime_max MMP u32
ttime_max MMP u32
eint MCP u64
idle_conn_cur MGP u32
safe_conn_cur MGP u32
used_conn_cur MGP u32
need_conn_est MGP u32
uweight MaP u32
agg_server_status MGP u32
agg_server_check_status MGP u32
agg_check_status MGP u32
srid MGP u32
sess_other MCP u64
h1sess MCP u64
h2sess MCP u64
h3sess MCP u64
req_other MCP u64
h1req MCP u64
h2req MCP u64
h3req MCP u64
proto CGS str
priv_idle_cur MGP u32
reqbin MCP u64
reqbout MCP u64
resbin MCP u64
resbout MCP u64
cache_hint_hits MCP u64
""")

DASH: Final = "-"

OWN: Final = _table("""
way CNS str
carrier SNP str
elected SGC u32
term MGC u64
fit SGC u32
warm SGC u32
drained SGC u32
heard_ms_ago MAP u64
held_total MCP u64
replayed_total MCP u64
reset_at_switch_total MCP u64
drained_total MCP u64
datagrams_in MCP u64
datagrams_out MCP u64
datagrams_dropped MCP u64
flows_cur MGP u64
replica_lag_ms MGP u64
replica_lag_records MGP u64
""")

ALL: Final = (*STATIC, *OWN)
# Position as typed and JSON output number it: the dash has none of its own.
POSITIONS: Final = {column.name: position for position, column in enumerate(ALL)}
MAXIMA: Final = {"qmax": "qcur", "smax": "scur", "rate_max": "rate", "conn_rate_max": "conn_rate"}
COUNTERS: Final = frozenset(column.name for column in ALL if column.tag[1] == "C" and column.tag[0] == "M")

ORIGINS: Final = {"M": "Metric", "S": "Status", "K": "Key", "C": "Config", "P": "Product"}
NATURES: Final = {
    "A": "Age",
    "a": "Avg",
    "C": "Counter",
    "D": "Duration",
    "G": "Gauge",
    "L": "Limit",
    "M": "Max",
    "m": "Min",
    "N": "Name",
    "O": "Output",
    "R": "Rate",
    "T": "Time",
}
SCOPES: Final = {"C": "Cluster", "P": "Process", "S": "Service", "s": "System"}
