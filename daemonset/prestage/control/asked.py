"""What a part asks of the API server, as a metric: labels are methods and resources, which its rights bound."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector


class Asked(Collector):
    """`requests`: KubeApi's own count."""

    def __init__(self, requests: Counter[tuple[str, str]]) -> None:
        self._requests = requests

    def collect(self) -> Iterable[Metric]:
        """See prometheus_client."""
        family = CounterMetricFamily(
            "prestage_api_requests", "Requests to the API server, retries included.", labels=["method", "resource"]
        )
        for (method, resource), count in sorted(self._requests.items()):
            family.add_metric([method, resource], count)
        yield family
