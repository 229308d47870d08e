"""How the slow tier shares two cores: which tests follow each other in one process, and which of these lanes begins first.

A lane is run by one worker, one test after the other: tests that stand on one cluster share a lane, so that it is started once.
Without a word here that is a folder of tests/cluster, elsewhere a file. Lanes begin in the order written: first the soak, for
its ten minutes pass beside everything else, then the long ones; last what is spread test by test, so that no worker is left
alone with much.
"""

from __future__ import annotations

LANES: dict[str, tuple[str, ...]] = {
    # xdist queues another lane behind one with less than three tests, and there it would wait for ten minutes
    "soak": (
        "tests/integration/agent/test_for_long.py::test_thousands_of",
        "tests/integration/serving/test_nothing_grows.py",
        "tests/unit/cacher/store/test_scale.py",
        "tests/unit/house/",
    ),
    "story": ("tests/cluster/story/",),
    "kill": ("tests/integration/staging/test_kill_anywhere.py",),
    "one-node": ("tests/cluster/node/", "tests/cluster/planner/"),
    "broker": ("tests/cluster/broker/",),
    "admission": ("tests/cluster/admission/",),
    "api-server": ("tests/contract/node/", "tests/cluster/kube/", "tests/contract/kube/"),
}
"""Lane to the beginnings of its tests' names, in the order in which they run."""

SPREAD = (
    "tests/unit/cacher/store/test_power_loss.py",
    "tests/integration/agent/test_killed_at_any_step_of_any_verb.py",
)
"""Tests that share nothing, and no lane."""

_PLACES = {begin: (rank, place) for rank, begins in enumerate(LANES.values()) for place, begin in enumerate(begins)}


def lane_of(test: str) -> str | None:
    """The lane of a test by its name (`path::function[parameters]`)."""
    if test.startswith(SPREAD):
        return None
    file = test.partition("::")[0]
    own = file.rpartition("/")[0] if file.startswith("tests/cluster/") else file
    return next((lane for lane, begins in LANES.items() if test.startswith(begins)), own)


def order_of(test: str) -> tuple[int, int]:
    """What the slow tier is sorted by."""
    unwritten = (len(LANES), int(test.startswith(SPREAD)))
    return next((at for begin, at in _PLACES.items() if test.startswith(begin)), unwritten)
