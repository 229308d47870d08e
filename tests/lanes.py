"""How the slow tier shares two cores: which tests follow each other in one process, and which of these lanes begins first.

A lane is run by one worker, one test after the other. Tests that stand on one server or cluster share a lane, so that it is
started once. Lanes begin in the order written here, then what is in none, test by test: first the soak, for its ten minutes
pass beside everything else, then the long ones, so that no worker is left alone with one at the end.
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
    "one-node": ("tests/cluster/node/", "tests/cluster/planner/test_a_deployment_on_a_real_cluster.py"),
    "broker": ("tests/cluster/broker/",),
    "admission": (
        "tests/cluster/admission/test_agents_write_their_own_status.py",
        "tests/cluster/admission/test_artifacts_are_the_brokers.py",
        "tests/cluster/admission/test_gates_and_conditions.py",
        "tests/cluster/admission/test_pods_get_their_models.py",
    ),
    "api-server": (
        "tests/cluster/planner/test_the_planner_on_a_real_api_server.py",
        "tests/cluster/kube/",
        "tests/contract/kube/",
        "tests/contract/node/",
    ),
}
"""Lane to the beginnings of its tests' names, in the order in which they run."""

_PLACES = {begin: (rank, place) for rank, begins in enumerate(LANES.values()) for place, begin in enumerate(begins)}
_LAST = (len(LANES), 0)


def lane_of(test: str) -> str | None:
    """The lane of a test by its name (`path::function[parameters]`)."""
    return next((lane for lane, begins in LANES.items() if test.startswith(begins)), None)


def order_of(test: str) -> tuple[int, int]:
    """What the slow tier is sorted by."""
    return next((at for begin, at in _PLACES.items() if test.startswith(begin)), _LAST)
