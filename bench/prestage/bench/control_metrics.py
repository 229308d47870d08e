"""What parts of the control plane say of themselves on /metrics: read, subtracted, made into quantiles. Pure but for `read`."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from prestage.cacher.errors import Unavailable

_SILENT = frozenset({"tokenreviews", "subjectaccessreviews"})
"""Asked with POST, and nothing is stored."""
_BY_TIME = frozenset({("PUT", "leases"), ("PATCH", "leases")})
"""Renewed as time goes by, whatever pods do. Those that are made and deleted are counted: one for each question."""

Sample = tuple[str, frozenset[tuple[str, str]]]


@dataclass(frozen=True, slots=True)
class Said:
    """Of one part at one moment: samples by name and labels."""

    samples: Mapping[Sample, float] = field(default_factory=dict)

    def one(self, name: str, **labels: str) -> float:
        """The sum of what has these labels; 0 where nothing does."""
        wanted = frozenset(labels.items())
        return sum(value for (found, has), value in self.samples.items() if found == name and wanted <= has)

    def since(self, before: Said) -> Said:
        """What was added."""
        return Said({key: value - before.samples.get(key, 0.0) for key, value in self.samples.items()})

    def writes(self) -> dict[str, int]:
        """Requests that store something, by method and resource."""
        found: dict[str, int] = {}
        for (name, labels), value in self.samples.items():
            said = dict(labels)
            resource, method = said.get("resource", ""), said.get("method", "GET")
            if name != "prestage_api_requests_total" or method == "GET" or value <= 0:
                continue
            if resource not in _SILENT and (method, resource) not in _BY_TIME:
                found[f"{method} {resource}"] = round(value)
        return dict(sorted(found.items()))

    def quantile(self, name: str, q: float, **labels: str) -> float | None:
        """Of a histogram: the upper end of the bucket in which it lies (never too good); None where nothing was observed."""
        wanted = frozenset(labels.items())
        rows: dict[float, float] = {}
        for (found, has), value in self.samples.items():
            if found == f"{name}_bucket" and wanted <= has:
                bound = float(dict(has)["le"])
                rows[bound] = rows.get(bound, 0.0) + value
        total = rows.get(float("inf"), 0.0)
        if not total:
            return None
        return next(bound for bound, count in sorted(rows.items()) if count >= q * total)


def parsed(text: str) -> Said:
    """A page of /metrics."""
    samples: dict[Sample, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples[sample.name, frozenset(sample.labels.items())] = float(sample.value)
    return Said(samples)


def read(url: str) -> Said:
    """Of one part now.

    Raises:
        Unavailable: nobody answers there, or what does is no page of metrics.
    """
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310  the operator's own flag
            return parsed(answer.read().decode())
    except (OSError, ValueError) as exc:
        raise Unavailable(f"{url}: {exc}", hint="name the part's /metrics: --part planner=http://HOST:8081/metrics") from exc
