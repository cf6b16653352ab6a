"""Every metric, declared once: name, kind, meaning, labels, and how it is read from the node's documents.

Rule: names end in their unit, counters in `_total`. A name that was released is never given another meaning.
"""

from typing import Final

from gateway.console import metrics_managers, metrics_node, metrics_traffic
from gateway.console.metrics_reading import Facts, Metric

__all__ = ["METRICS", "PREFIX", "Facts", "Metric"]

PREFIX: Final = "condor_gateway_"
METRICS: Final = (*metrics_node.METRICS, *metrics_traffic.METRICS, *metrics_managers.METRICS)
