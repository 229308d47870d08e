"""Days that take minutes: a full disk, a reboot with an empty SSD, a Node deleted, a node at rest. Run by hand: `make rare-days`;
what was seen is printed, and stands in docs/node.md.
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from story import Story, deployment, uploaded

from cluster.installed import ROOT
from cluster.network import run

pytestmark = [
    pytest.mark.needs("kubernetes-node", "helm", "versitygw", "toxiproxy-server"),
    pytest.mark.timeout(600),
]
REST_S = 180
TICKS_PER_S = 100


def test_a_full_disk_is_said_and_room_that_comes_is_used(story: Story) -> None:
    ref, foreign = "s3://models/llama/full/", f"{ROOT}/../foreign"
    sums = uploaded(story.origin, ref)
    story.cluster.kubectl("apply", "-f", "-", stdin=deployment("steady"))
    story.available("steady")
    fill = f"fallocate -l $(( $(df --output=avail -B1 {ROOT} | tail -n 1) - (20 << 20) )) {foreign}"
    run(*story.node.enter("/bin/sh", "-ec", fill))
    try:
        story.cluster.kubectl("apply", "-f", "-", stdin=deployment("late", ref=ref, wait="Mount"))
        began_s = time.monotonic()
        story.told(lambda: "Failed Full" in story.states(), "the node says Full")
        print(f"\nFull after {time.monotonic() - began_s:.1f} s: {story.states()}")
        [steady], [late] = story.pods("steady"), story.pods("late")
        assert story.answer(steady)["sums"] == story.sums, "what is mounted stays"
        name = late["metadata"]["name"]
        story.told(lambda: any("ResourceExhausted" in words for _, words in story.events(name)), "an Event that says so")
        print(f"told after {time.monotonic() - began_s:.1f} s: {story.events(name)[-1]}")
    finally:
        run(*story.node.enter("/bin/rm", foreign))
    began_s = time.monotonic()
    story.available("late", timeout_s=240)
    print(f"ran {time.monotonic() - began_s:.1f} s after there was room")
    [late] = story.pods("late")
    assert story.answer(late)["sums"] == sums
    story.gone("late")
    story.gone("steady")


def test_after_a_reboot_with_an_empty_disk_pods_come_back_with_the_same_files(story: Story) -> None:
    story.cluster.kubectl("apply", "-f", "-", stdin=deployment("steady", replicas=2))
    story.available("steady")
    uids = {pod["metadata"]["uid"] for pod in story.pods("steady")}
    state = json.loads(story.cluster.kubectl("get", "nodecache", story.node.name, "-o", "json"))["status"]["storeID"]
    story.cluster.reboot(story.node)
    # the new disk of a node whose old one is gone: made empty, mounted before the agent looks
    story.installed.mount_disk(story.node)
    began_s = time.monotonic()
    story.installed.all_ready()

    def answers() -> bool:
        pods = story.pods("steady")
        return all("podIP" in pod["status"] for pod in pods) and [story.answer(pod)["sums"] for pod in pods] == [story.sums] * 2

    story.told(answers, "both pods serve again", timeout_s=200)
    after = json.loads(story.cluster.kubectl("get", "nodecache", story.node.name, "-o", "json"))["status"]["storeID"]
    print(f"\nserved again {time.monotonic() - began_s:.0f} s after the disk was there; store {state[:8]} -> {after[:8]}")
    assert after != state
    assert {pod["metadata"]["uid"] for pod in story.pods("steady")} == uids, "the same pods"
    story.gone("steady")


def test_a_node_that_was_deleted_and_comes_back_has_a_new_plan_and_its_old_bytes(story: Story) -> None:
    kubectl = story.cluster.kubectl
    kubectl("apply", "-f", "-", stdin=deployment("steady"))
    story.available("steady")
    before = json.loads(kubectl("get", "nodecache", story.node.name, "-o", "json"))
    story.origin.program.pause()
    try:
        kubectl("delete", "node", story.node.name, "--timeout=60s")
        story.told(
            lambda: story.node.name not in kubectl("get", "nodecaches", "-o", "name"), "its NodeCache is gone", timeout_s=30
        )
        story.node.kill("kubelet")  # which registers it again
        story.told(story.node.ready, "the node is Ready", timeout_s=90)
        story.installed.all_ready()
        story.available("steady", timeout_s=180)
    finally:
        story.origin.program.resume()
    after = json.loads(kubectl("get", "nodecache", story.node.name, "-o", "json"))
    assert after["spec"]["nodeUID"] != before["spec"]["nodeUID"]
    assert after["status"]["storeID"] == before["status"]["storeID"]
    [pod] = story.pods("steady")
    assert story.answer(pod)["sums"] == story.sums, "not a byte was fetched: the origin stood still"
    ref = "s3://models/llama/again/"
    sums = uploaded(story.origin, ref)
    kubectl("apply", "-f", "-", stdin=deployment("again", ref=ref))
    print(f"\na pod with a new model ran {story.available('again', timeout_s=180):.0f} s after the node was back")
    [pod] = story.pods("again")
    assert story.answer(pod)["sums"] == sums, "what is new is planned for it, handed to it and fetched"
    for app in ("steady", "again"):
        story.gone(app)


def test_a_node_at_rest_costs_little(story: Story) -> None:
    story.cluster.kubectl("apply", "-f", "-", stdin=deployment("steady"))
    story.available("steady")
    time.sleep(15)
    processes = _processes(story)
    before, written = {name: _cpu_s(pid) for name, pid in processes.items()}, _writes(story)
    time.sleep(REST_S)
    used = {name: _cpu_s(pid) - before[name] for name, pid in processes.items()}
    writes_a_minute = (_writes(story) - written) / REST_S * 60
    share = sum(used.values()) / REST_S
    resident = {name: _resident_bytes(pid) / 2**20 for name, pid in processes.items()}
    print(f"\nat rest for {REST_S} s: {share:.2%} of a core ({used}), {writes_a_minute:.1f} writes a minute, MiB {resident}")
    assert writes_a_minute <= 1.4, "one a minute, and what a window's ends add"
    assert max(resident.values()) <= 150
    assert share < 0.005
    story.gone("steady")


def _processes(story: Story) -> dict[str, int]:
    """Agent and driver, as the machine numbers them."""
    [pod] = story.parts("node")
    return {name: _outer(story, pid) for name, pid in story.processes(pod).items()}


def _outer(story: Story, inner: int) -> int:
    """A pid of the node's namespace, in ours."""
    space = Path(f"/proc/{story.node.pid}/ns/pid").readlink()
    for status in Path("/proc").glob("[0-9]*/status"):
        found = re.search(r"^NSpid:\t(.*)$", status.read_text(), re.MULTILINE)
        numbers = found.group(1).split() if found else []
        if len(numbers) >= 2 and numbers[1] == str(inner) and _below(int(status.parent.name), story.node.pid):
            return int(status.parent.name)
    raise AssertionError(f"no process {inner} in {space}")


def _below(pid: int, top: int) -> bool:
    while pid > 1:
        if pid == top:
            return True
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return False


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def _resident_bytes(pid: int) -> int:
    found = re.search(r"^VmRSS:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return int(found.group(1)) * 1024


def _writes(story: Story) -> int:
    """Of the node's account, by the API server's own log; reviews store nothing."""
    return story.audit.count("node", ("create", "update", "patch", "delete"), leave_out=("tokenreviews",))
