"""Metrics, the alert rules that use them, and the dashboard that shows them."""

import json
import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest
from operator_documents import HISTORY, RECORDED, gateway, manager
from prometheus_client.parser import text_string_to_metric_families

from gateway.console.metrics import Metrics, render
from gateway.console.metrics_table import METRICS, PREFIX

DATA = Path(str(files("gateway.console") / "data"))
ALERTS = (DATA / "alerts.yml").read_text()
DASHBOARD = json.loads((DATA / "dashboard.json").read_text())
DOCUMENTS = [gateway(), manager(), *(json.loads(path.read_text()) for path in RECORDED)]
# Labels that Prometheus or the configuration of a target gives.
TARGET_LABELS = {"cluster", "instance", "job"}


def samples(text):
    """Return {(name, sorted labels): value}."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(text, name, **labels):
    return samples(text)[PREFIX + name, tuple(sorted(labels.items()))]


# -- metrics ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda one: f"{one['cluster']}-{one['node']}")
def test_every_sample_is_a_declared_metric_with_its_labels(document):
    declared = {PREFIX + metric.name: metric for metric in METRICS}
    text = render(document, HISTORY)
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    for name, labels in samples(text):
        assert {label for label, _ in labels} == set(declared[name].labels)
        assert kinds[name] == declared[name].kind


def test_names_are_unique_and_say_their_unit():
    names = [metric.name for metric in METRICS]
    assert len(names) == len(set(names))
    for metric in METRICS:
        assert re.fullmatch(r"[a-z][a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert not re.search(r"_ms\b|_kib|milli", metric.name), "seconds and bytes, as Prometheus wants them"
        assert re.fullmatch(r"[A-Z'].*\.", metric.help), metric.name


def test_together_the_roles_expose_every_metric():
    documents = [gateway(), manager()]
    documents[0]["orders"] |= {"drained": ["gw2"]}
    way = {"way": "nat", "state": "", "fault": "", "server": None, "counters": {"tcp_opened": 3}}
    documents[0]["diversions"] = {"managers": way | {"expelled_total": 1, "conntrack_fill": 0.5}}
    documents[1]["receiving"] = {"managers": {"destroyed_total": 1, "undestroyed_total": 0, "fault": ""}}
    documents[1]["returns"] = {"eth0": {"state": "", "fault": ""}}
    documents[1]["cluster_link"] = {"answered_total": 1, "refused_total": {"forged": 1}}
    shown = {name for document in documents for name, _ in samples(render(document, HISTORY))}
    assert {PREFIX + metric.name for metric in METRICS} - shown == set()


def test_leaders_leases_and_gaps_are_told():
    text = render(gateway(), HISTORY)
    assert value(text, "election_leads", election="vip", kind="address") == 1
    assert value(text, "election_leads", election="managers", kind="matchmaker") == 0
    assert value(text, "lease_left_seconds", election="vip", kind="address") == 0.42
    assert value(text, "last_change_gap_seconds", election="vip") == 0.291
    assert value(text, "peer_heard", peer="cm3") == 0
    assert value(text, "packets_refused_total", reason="replayed") == 3


def test_what_a_node_can_not_know_is_absent_and_not_zero():
    document = gateway()
    document["frontends"]["pool"]["connections"]["now"] = None
    shown = {name for name, _ in samples(render(document, HISTORY))}
    assert PREFIX + "frontend_connections" not in shown
    assert PREFIX + "ads" not in shown
    assert (PREFIX + "lease_left_seconds", (("election", "managers"), ("kind", "matchmaker"))) not in samples(
        render(document, HISTORY)
    )


def test_standbys_that_are_not_connected_have_no_lag():
    text = render(manager(), None)
    assert value(text, "replica_lag_seconds", backend="managers", standby="cm2") == 0.12
    assert value(text, "replica_connected", backend="managers", standby="cm3") == 0
    assert (PREFIX + "replica_lag_seconds", (("backend", "managers"), ("standby", "cm3"))) not in samples(text)


def test_changes_are_counted_beyond_what_the_history_keeps():
    metrics = Metrics()
    metrics.render(gateway(), HISTORY)
    later = [HISTORY["changes"][-1] | {"seq": seq} for seq in (9, 12)]
    assert value(metrics.render(gateway(), {"changes": later}), "changes_total", election="vip", cause="died") == 2
    assert value(metrics.render(gateway(), {"changes": later}), "changes_total", election="vip", cause="died") == 2


# -- alert rules -----------------------------------------------------------------------------------------------------


def rules():
    """Return each rule as {"alert", "expr", "for", "severity", "summary", "action"}; the file has one form."""
    found = []
    for block in re.split(r"^      - alert: ", ALERTS, flags=re.MULTILINE)[1:]:
        name, rest = block.split("\n", 1)
        rule = {"alert": name}
        for key, text in re.findall(r"^ +(\w+): (.*(?:\n {10,}(?!\w+: ).*)*)", rest, re.MULTILINE):
            rule[key] = " ".join(text.removeprefix(">-").strip('"').split())
        found.append(rule)
    return found


def used_in(expression):
    """Return the metrics and the labels that a PromQL expression names."""
    labels = {
        word for group in re.findall(r"\b(?:by|on|without) \(([^)]*)\)", expression) for word in re.split(r", ?", group)
    }
    labels |= set(re.findall(r"(\w+)=~?\"", expression))
    return set(re.findall(rf"{PREFIX}\w+", expression)), labels


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_rule_uses_metrics_that_exist_and_says_what_to_do(rule):
    names, labels = used_in(rule["expr"])
    declared = {PREFIX + metric.name: metric for metric in METRICS}
    assert names <= declared.keys()
    known = TARGET_LABELS.union(*(declared[name].labels for name in names)) | set(re.findall(r'"(\w+)"', rule["expr"]))
    assert labels <= known
    shown = set(re.findall(r"\$labels\.(\w+)", rule["summary"] + rule["action"]))
    assert shown <= known
    assert rule["severity"] in ("critical", "warning", "info")
    assert re.fullmatch(r"\d+[smhd]", rule["for"])
    assert len(rule["summary"]) > 20
    assert len(rule["action"]) > 20


def test_there_are_rules_and_no_two_share_a_name():
    names = [rule["alert"] for rule in rules()]
    assert len(names) > 30
    assert len(names) == len(set(names)) == ALERTS.count("- alert:")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool on this host")
def test_promtool_takes_the_rules_and_the_metrics():
    checked = subprocess.run(["promtool", "check", "rules", DATA / "alerts.yml"], capture_output=True, timeout=60)
    assert checked.returncode == 0, checked.stderr
    for document in (gateway(), manager()):
        text = render(document, HISTORY).encode()
        checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, timeout=60)
        assert (checked.returncode, checked.stderr) == (0, b"")


# -- dashboard -------------------------------------------------------------------------------------------------------


def panels():
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_panel_shows_metrics_that_exist_by_labels_that_they_have(panel):
    declared = {PREFIX + metric.name: metric for metric in METRICS}
    for target in panel["targets"]:
        names, labels = used_in(target["expr"])
        assert names
        assert names <= declared.keys()
        known = TARGET_LABELS.union(*(declared[name].labels for name in names))
        assert labels | set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= known


def test_panels_do_not_cover_one_another():
    covered = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not covered & cells, panel["title"]
        assert at["x"] + at["w"] <= 24
        covered |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
