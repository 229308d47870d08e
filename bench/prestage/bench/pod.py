"""`prestage bench pod`: what a staged model costs a pod's start: create to running, with the model and without, alternated.

    a first pod with the model     brings it to a node; not counted
    rounds on that node            a pod with the annotations, one without, in an order drawn from the seed; one at a time
    create ─▶ bound ─▶ running     by the times at which a watch told; then deleted, and gone before the next begins

JSON (`to_json`, `schema` 1); seconds, SUMMARY as in `fetch.py`; `machine` is the one that watched:

    {"bench": "pod", "schema": 1, "date", "namespace", "node", "image", "annotations", "rounds", "seed", "machine": {...},
     "first_s", "with_model": SUMMARY, "without": SUMMARY, "bound_s": {"with_model": SUMMARY, "without": SUMMARY},
     "more": {SUMMARY, "goal": 0.5, "met"}, "samples": [{"round", "variant", "bound_s", "running_s"}]}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from prestage.api.annotations import MODEL_PREFIX, Mistakes, parse
from prestage.bench.machine import Machine
from prestage.bench.rounds import Summary, summarize
from prestage.cacher.errors import Misconfigured

GOAL_S = 0.5
"""More than the same pod without the model, at the median."""
WITH, WITHOUT = "with_model", "without"


@dataclass(frozen=True, slots=True)
class PodJob:
    """What to measure."""

    namespace: str
    annotations: Mapping[str, str]
    image: str
    command: tuple[str, ...] = ("sleep", "3600")
    pull_policy: str = "IfNotPresent"
    rounds: int = 7
    seed: int = 1
    start_s: float = 120.0
    """How long a pod may take."""
    stage_s: float = 3600.0
    """How long the first one may take, which brings the model."""


@dataclass(frozen=True, slots=True)
class PodSample:
    """One pod, from its creation."""

    round: int
    variant: str
    bound_s: float
    running_s: float


@dataclass(frozen=True, slots=True)
class PodResult:
    """All samples, and what they come to."""

    job: PodJob
    machine: Machine
    date: str
    node: str
    first_s: float
    samples: tuple[PodSample, ...]

    def running_s(self, variant: str) -> Summary:
        """Create to running."""
        return summarize([sample.running_s for sample in self._of(variant)])

    def bound_s(self, variant: str) -> Summary:
        """Create to bound to the node."""
        return summarize([sample.bound_s for sample in self._of(variant)])

    @property
    def more_s(self) -> Summary:
        """With the model less without, round by round."""
        pairs = zip(self._of(WITH), self._of(WITHOUT), strict=True)
        return summarize([ours.running_s - plain.running_s for ours, plain in pairs])

    def _of(self, variant: str) -> list[PodSample]:
        return sorted((sample for sample in self.samples if sample.variant == variant), key=lambda sample: sample.round)

    def to_json(self) -> dict[str, object]:
        """As in the module's schema."""
        job, more = self.job, self.more_s
        return {
            "bench": "pod",
            "schema": 1,
            "date": self.date,
            "namespace": job.namespace,
            "node": self.node,
            "image": job.image,
            "annotations": dict(job.annotations),
            "rounds": job.rounds,
            "seed": job.seed,
            "machine": self.machine.to_json(),
            "first_s": round(self.first_s, 3),
            WITH: self.running_s(WITH).to_json(),
            WITHOUT: self.running_s(WITHOUT).to_json(),
            "bound_s": {variant: self.bound_s(variant).to_json() for variant in (WITH, WITHOUT)},
            "more": {**more.to_json(), "goal": GOAL_S, "met": more.median <= GOAL_S},
            "samples": [asdict(sample) for sample in self.samples],
        }


def annotations_of(models: Sequence[str], more: Sequence[str]) -> dict[str, str]:
    """`NAME=REF` and `KEY=VALUE`, as annotations, checked.

    Raises:
        Misconfigured: every mistake in them, as admission would say it.
    """
    found = {}
    for text, prefix in (*((one, MODEL_PREFIX) for one in models), *((one, "") for one in more)):
        key, separator, value = text.partition("=")
        if not separator:
            raise Misconfigured(f"{text!r} has no =", hint="--model NAME=REF, --annotation KEY=VALUE")
        found[prefix + key] = value
    try:
        parse(found)
    except Mistakes as exc:
        raise Misconfigured(str(exc)) from exc
    return found


def pod_table(result: PodResult) -> RenderableType:
    """Seconds by variant, and what the model adds."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("POD")
    for name in ("BOUND s", "RUNNING s", "RANGE"):
        table.add_column(name, justify="right", no_wrap=True)
    for variant in (WITH, WITHOUT):
        bound, running = result.bound_s(variant), result.running_s(variant)
        spans = f"{running.low:.2f} - {running.high:.2f}"
        table.add_row(variant.replace("_", " "), f"{bound.median:.2f}", f"{running.median:.2f}", spans)
    more = result.more_s
    verdict = "met" if more.median <= GOAL_S else "missed"
    line = (
        f"the model adds {more.median:.2f} s (median of {result.job.rounds} rounds; {more.interval}); goal {GOAL_S} s: {verdict}"
    )
    first = f"the first pod, which brought the model to {result.node}: {result.first_s:.1f} s"
    return Group(table, Text(), Text(line), Text(first, style="dim"), Text(result.machine.line(), style="dim"))
