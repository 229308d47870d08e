"""`prestage bench image`: what staging an image is worth, against PullImage of the same containerd, alternated.

    pull      a cold PullImage, as the kubelet asks for it: manifest, layers, unpacked
    stage     our staging of the same image on the same clean containerd
    find      PullImage right after that
    Between two of them everything of the image is removed from containerd, by its own garbage collector.

JSON (`to_json`, `schema` 1); seconds, SUMMARY as in `fetch.py`:

    {"bench": "image", "schema": 1, "date", "image", "bytes", "layers", "containerd", "throttle", "rounds", "seed",
     "machine": {...}, "pull": SUMMARY, "stage": SUMMARY, "find": SUMMARY, "speed": SUMMARY (pull / stage, by round),
     "cpu": {"stage": SUMMARY, ...}, "goals": {"find": {"goal": 0.2, "met"}, "speed": {"goal", "met"}}, "foreign_cores": SUMMARY}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from prestage.bench.machine import Machine
from prestage.bench.rounds import Summary, judge, ratios, summarize
from prestage.cacher.quantities import human_bytes

PULL, STAGE, FIND = "pull", "stage", "find"
GOAL_FIND_S = 0.2
GOAL_SPEED_THROTTLED, GOAL_SPEED = 2.0, 1.0
_WHAT = {PULL: "PullImage, cold", STAGE: "staged by us, cold", FIND: "PullImage once staged"}


@dataclass(frozen=True, slots=True)
class ImageSample:
    """One of them, in one round."""

    round: int
    what: str
    seconds: float
    cpu_s: float
    """Of containerd and, when staging, of this process."""
    foreign_cores: float


@dataclass(frozen=True, slots=True)
class ImageResult:
    """All samples, and what they come to."""

    image: str
    size_bytes: int
    layers: int
    containerd: str
    throttle: int | None
    """Bytes a second a connection."""
    rounds: int
    seed: int
    date: str
    machine: Machine
    samples: tuple[ImageSample, ...]

    def seconds(self, what: str) -> Summary:
        """By round."""
        return summarize([sample.seconds for sample in self._of(what)])

    def cpu_s(self, what: str) -> Summary:
        """By round."""
        return summarize([sample.cpu_s for sample in self._of(what)])

    @property
    def speed(self) -> Summary:
        """How much faster staging is than a pull."""
        found = ratios(self._by_round(PULL), self._by_round(STAGE))
        assert found is not None
        return found

    @property
    def goal_speed(self) -> float:
        """By what stands between."""
        return GOAL_SPEED if self.throttle is None else GOAL_SPEED_THROTTLED

    def to_json(self) -> dict[str, object]:
        """As in the module's schema."""
        find, speed = self.seconds(FIND), self.speed
        return {
            "bench": "image",
            "schema": 1,
            "date": self.date,
            "image": self.image,
            "bytes": self.size_bytes,
            "layers": self.layers,
            "containerd": self.containerd,
            "throttle": self.throttle,
            "rounds": self.rounds,
            "seed": self.seed,
            "machine": self.machine.to_json(),
            **{what: self.seconds(what).to_json() for what in (PULL, STAGE, FIND)},
            "speed": speed.to_json(),
            "cpu": {what: self.cpu_s(what).to_json() for what in (PULL, STAGE, FIND)},
            "goals": {
                "find": {"goal": GOAL_FIND_S, "met": find.median <= GOAL_FIND_S},
                "speed": {"goal": self.goal_speed, "met": speed.median >= self.goal_speed},
            },
            "foreign_cores": summarize([sample.foreign_cores for sample in self.samples]).to_json(),
        }

    def _of(self, what: str) -> list[ImageSample]:
        return sorted((sample for sample in self.samples if sample.what == what), key=lambda sample: sample.round)

    def _by_round(self, what: str) -> Mapping[int, float]:
        return {sample.round: sample.seconds for sample in self._of(what)}


def image_table(result: ImageResult) -> RenderableType:
    """Seconds and CPU by what was done, and how they compare."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for name in ("s", "RANGE", "CPU s"):
        table.add_column(name, justify="right", no_wrap=True)
    for what, words in _WHAT.items():
        took = result.seconds(what)
        table.add_row(words, f"{took.median:.2f}", f"{took.low:.2f} - {took.high:.2f}", f"{result.cpu_s(what).median:.2f}")
    speed, find = result.speed, result.seconds(FIND)
    verdict = judge(speed, [sample.foreign_cores for sample in result.samples])
    fast = speed.median >= result.goal_speed
    wire = f"{human_bytes(result.throttle)}/s a connection" if result.throttle else "no limit"
    lines = [
        f"{result.image}: {result.layers} layers, {human_bytes(result.size_bytes)}, {wire}, containerd {result.containerd}",
        f"staging is {speed.median:.2f}x as fast as a pull ({speed.interval}); goal {result.goal_speed}: {_met(fast)}",
        f"a pull of what is staged: {find.median:.3f} s; goal {GOAL_FIND_S}: {_met(find.median <= GOAL_FIND_S)}",
        *(f"noisy: {reason}" for reason in verdict.reasons),
    ]
    return Group(table, Text(), *map(Text, lines), Text(result.machine.line(), style="dim"))


def _met(is_met: bool) -> str:
    return "met" if is_met else "missed"
