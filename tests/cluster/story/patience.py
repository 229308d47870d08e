"""The kubelet's two minutes for a publish, as they are: a model that takes longer, and a driver that does not answer in time.
Run by hand: `make rare-days`; what was seen is printed, and stands in docs/node.md.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from story import Story, deployment, uploaded

from cluster.installed import ROOT
from cluster.network import run

pytestmark = [
    pytest.mark.needs("kubernetes-node", "helm", "versitygw", "toxiproxy-server"),
    pytest.mark.timeout(600),
]
PATIENCE_S = 120
"""The kubelet's: csiTimeout in its source, not to be set."""
POOL = 6
"""Threads of an event loop's own pool on two cores: they come one by one, and stay."""


def listed(story: Story, folder: str) -> list[str]:
    """What is in it, on the node."""
    return run(*story.node.enter("/bin/ls", folder)).split()


def taken(story: Story) -> dict[str, tuple[int, int]]:
    """Descriptors and threads of agent and driver."""
    [pod] = story.parts("node")
    pids = {name: pid for name, pid in story.processes(pod).items() if name in ("agent", "csi")}
    return {name: (len(listed(story, f"/proc/{pid}/fd")), len(listed(story, f"/proc/{pid}/task"))) for name, pid in pids.items()}


def mounted(story: Story) -> int:
    """Of pods with models, on the node: two for each, the tree and over its side the pod's own."""
    return run(*story.node.enter("/bin/cat", "/proc/self/mountinfo")).count("kubernetes.io~csi")


def held(story: Story) -> int:
    """Holds of mounts, on disk."""
    return run(*story.node.enter("/usr/bin/find", f"{ROOT}/holds", "-name", "mount-*.json")).count(".json")


def failures(story: Story, app: str) -> list[str]:
    """Answers to publishes of its pod, as Events tell them."""
    names = [pod["metadata"]["name"] for pod in story.pods(app)]
    told = [words for name in names for reason, words in story.events(name) if reason == "FailedMount"]
    return [words for words in told if words.startswith("MountVolume.SetUp")]


def failed(story: Story, app: str, words: str) -> None:
    """Wait for such an answer, looking now and then: it takes two minutes."""
    deadline_s = time.monotonic() + PATIENCE_S + 30
    while not any(words in said for said in failures(story, app)):
        assert time.monotonic() < deadline_s, story.explained(app)
        time.sleep(2)


@contextmanager
def nothing_left(story: Story) -> Iterator[None]:
    """Once one pod has come and gone, all that a second one took is given back."""
    story.cluster.kubectl("apply", "-f", "-", stdin=deployment("before"))
    story.available("before")
    story.gone("before")
    before, mounts, trees, holds = taken(story), mounted(story), story.trees(), held(story)
    assert (mounts, trees, holds) == (0, [], 0)
    yield

    def is_as_before() -> bool:
        now = taken(story)
        few = all(now[name][0] <= fds + 2 and now[name][1] <= threads + POOL for name, (fds, threads) in before.items())
        return few and (mounted(story), story.trees(), held(story)) == (0, [], 0)

    try:
        story.told(is_as_before, "nothing is left", timeout_s=60)
    finally:
        print(f"descriptors and threads: {before} -> {taken(story)}; mounts, trees, holds: none -> ", end="")
        print(mounted(story), story.trees(), held(story))


def test_a_publish_that_takes_longer_than_the_kubelet_waits_says_how_far_it_is_and_ends_in_a_mount(story: Story) -> None:
    ref = "s3://models/llama/patient/"
    sums = uploaded(story.origin, ref)
    with nothing_left(story):
        slow = story.wire.add("bandwidth", rate=115)  # KB/s of each connection; one for each of three pieces: 146 s
        try:
            story.cluster.kubectl("apply", "-f", "-", stdin=deployment("patient", ref=ref, wait="Mount"))
            story.told(lambda: any("Staging" in said for said in story.states()), "the node stages it")
            began_s = time.monotonic()
            failed(story, "patient", "")
            told_s = time.monotonic() - began_s
            story.available("patient", timeout_s=300)
        finally:
            story.wire.remove(slow)
        [pod], told = story.pods("patient"), failures(story, "patient")
        print(f"\ntold after {told_s:.0f} s, ran after {time.monotonic() - began_s:.0f} s: {told}")
        assert told_s > PATIENCE_S - 20, "it waited inside the call"
        assert all("llama: Staging" in words and "DeadlineExceeded" not in words for words in told), "before the kubelet gave up"
        assert mounted(story) == 2
        assert story.answer(pod)["sums"] == sums
        story.gone("patient")


def test_a_publish_that_the_kubelet_cancels_leaves_nothing_and_is_asked_again(story: Story) -> None:
    """The driver stands still in mid-call, until the two minutes are over."""
    ref = "s3://models/llama/cancelled/"
    sums = uploaded(story.origin, ref)
    with nothing_left(story):
        [node] = story.parts("node")
        pid = story.processes(node)["csi"]
        slow = story.wire.add("bandwidth", rate=400)  # KB/s: 42 s
        try:
            story.cluster.kubectl("apply", "-f", "-", stdin=deployment("cancelled", ref=ref, wait="Mount"))
            story.told(lambda: any("Staging" in said for said in story.states()), "the node stages it")
            began_s = time.monotonic()
            run(*story.node.enter("/bin/kill", f"-{signal.SIGSTOP.value}", str(pid)))
            try:
                failed(story, "cancelled", "DeadlineExceeded")
            finally:
                run(*story.node.enter("/bin/kill", f"-{signal.SIGCONT.value}", str(pid)))
        finally:
            story.wire.remove(slow)
        cancelled_s = time.monotonic() - began_s
        ran_s = story.available("cancelled", timeout_s=120)
        print(
            f"\ncancelled after {cancelled_s:.0f} s; ran {ran_s:.1f} s after the driver went on: {failures(story, 'cancelled')}"
        )
        assert cancelled_s > PATIENCE_S - 20
        assert mounted(story) == 2, "once, and not once for each call"
        assert (len(story.trees()), held(story)) == (1, 1)
        [pod] = story.pods("cancelled")
        assert story.answer(pod)["sums"] == sums
        story.gone("cancelled")
