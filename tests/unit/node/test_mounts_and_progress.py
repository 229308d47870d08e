"""The mount table, what is let go of by it, and what people read while they wait."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prestage.cacher.agent.messages import TreeView
from prestage.cacher.errors import Bug, Busy, Corrupt, Denied, Full, Misconfigured, NotFound, PrestageError, Unavailable
from prestage.node.csi import binding
from prestage.node.csi.errors import MESSAGE_MAX, answered
from prestage.node.csi.mountinfo import MountPoint, mount_table, parse
from prestage.node.csi.progress import Progress
from prestage.node.csi.publishing import Agent, Authorises, Publisher
from prestage.node.csi.settling import settle, to_drop
from prestage.node.csi.waiting import Stagings
from prestage.node.identity import node_uid_of

HOLD, OTHER = "mount-0123456789abcdef", "mount-ffffffffffffffff"
LINE = (
    f"36 35 98:0 /cache/mounts/{HOLD} /var/lib/kubelet/pods/a\\040b/mount ro,nosuid,nodev,relatime shared:1 - ext4 /dev/sda1 rw"
)


def test_a_line_says_whose_tree_is_where() -> None:
    [point] = parse(LINE)
    assert (point.target, point.hold, point.is_gone) == ("/var/lib/kubelet/pods/a b/mount", HOLD, False)
    assert {"ro", "nosuid", "nodev"} <= point.options
    [gone] = parse(LINE.replace(HOLD, f"{HOLD}//deleted"))
    assert (gone.hold, gone.is_gone) == (HOLD, True)
    [other] = parse(LINE.replace(HOLD, "pin-0123456789abcdef"))
    assert other.hold is None
    assert (point.is_ours, gone.is_ours, other.is_ours) == (True, True, False)
    [shared] = parse(LINE.replace(f"mounts/{HOLD}", f"trees/{'0f' * 32}"))
    assert (shared.is_ours, shared.hold, shared.is_gone) == (True, None, False)


def test_a_target_is_whole_once_a_pods_own_lies_over_what_it_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    target = Path("/pods/a/mount")
    shared, own = f"/cache/trees/{'0f' * 32}", f"/cache/mounts/{HOLD}"

    def seen(*mounts: tuple[str, str, str]) -> binding.Bound | None:
        text = "\n".join(f"36 35 98:0 {root} {where} {how} - ext4 /dev/sda1 rw" for root, where, how in mounts)
        monkeypatch.setattr(binding, "mount_table", lambda: list(parse(text)))
        return binding.bound(target)

    assert seen() is None
    assert seen((own, "/pods/b/mount/.prestage", "ro")) is None
    half = seen((shared, str(target), "ro"))
    assert half is not None
    assert (half.is_ours, half.hold, half.is_whole) == (True, None, False)
    whole = seen((shared, str(target), "ro"), (own, f"{target}/.prestage", "rw"))
    assert whole is not None
    assert (whole.hold, whole.is_whole, whole.writable()) == (HOLD, True, [target / ".prestage"])
    gone = seen((shared, str(target), "ro"), (f"{own}//deleted", f"{target}/.prestage", "ro"))
    assert gone is not None
    assert (gone.hold, gone.is_whole) == (HOLD, False)
    before = seen((own, str(target), "ro"))  # of the version before: all of it is one pod's
    assert before is not None
    assert (before.hold, before.is_whole, before.writable()) == (HOLD, True, [])
    foreign = seen(("/elsewhere", str(target), "ro"))
    assert foreign is not None
    assert not foreign.is_ours


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    list(parse(text))


def test_the_table_of_this_machine_has_its_root() -> None:
    assert any(point.target == "/" for point in mount_table())


def tree(hold: str, *, this_boot: bool, held_s: float, target: str = "/target") -> TreeView:
    return TreeView(hold, "/t", "uid", target, "", False, [], this_boot, held_s)


def test_a_hold_goes_once_it_is_bound_nowhere_for_long_enough() -> None:
    table = list(parse(LINE))

    def dropped(one: TreeView, uptime_s: float = 1e6, *, there: bool = False) -> list[str]:
        return [gone.hold for gone in to_drop([one], table, uptime_s, is_there=lambda target: there)]

    assert dropped(tree(HOLD, this_boot=True, held_s=1e6)) == []  # it is bound
    assert dropped(tree(OTHER, this_boot=True, held_s=100)) == []  # a publish may be about to bind it
    assert dropped(tree(OTHER, this_boot=True, held_s=181)) == [OTHER]
    assert dropped(tree(OTHER, this_boot=True, held_s=181), there=True) == []  # the kubelet is not done with it
    assert dropped(tree(OTHER, this_boot=False, held_s=1e6), 599) == []  # the kubelet may mount it again
    assert dropped(tree(OTHER, this_boot=False, held_s=1e6), 601, there=True) == [OTHER]


class PublishesMeanwhile:
    """After a reboot two pods of before are there; the kubelet publishes the second while the first is let go of."""

    def __init__(self, publisher: Publisher) -> None:
        self.publisher = publisher
        self.held = [tree(hold, this_boot=False, held_s=1e6, target=f"/{hold}") for hold in (HOLD, OTHER)]
        self.bound: list[MountPoint] = []
        self.publishing: asyncio.Task[None] | None = None

    async def trees(self) -> list[TreeView]:
        return list(self.held)

    async def drop(self, hold: str) -> None:
        if self.publishing is None:
            self.publishing = asyncio.create_task(self.publish())
            await asyncio.sleep(0)
        self.held = [one for one in self.held if one.hold != hold]

    async def publish(self) -> None:
        async with self.publisher.turn(f"/{OTHER}"):
            composed = tree(OTHER, this_boot=True, held_s=0, target=f"/{OTHER}")
            self.held = [one for one in self.held if one.hold != OTHER] + [composed]
            await asyncio.sleep(0.01)
            self.bound += parse(LINE.replace(HOLD, OTHER))


def test_a_hold_stays_whose_pod_is_published_while_others_are_let_go_of(monkeypatch: pytest.MonkeyPatch) -> None:
    publisher = Publisher(cast("Agent", None), cast("Authorises", None), cast("Stagings", None))
    node = PublishesMeanwhile(publisher)
    monkeypatch.setattr("prestage.node.csi.settling.mount_table", lambda: list(node.bound))
    monkeypatch.setattr("prestage.node.csi.settling.time.clock_gettime", lambda clock: 601.0)
    assert asyncio.run(settle(node, publisher.turn)) == [HOLD]
    assert [(one.hold, one.this_boot) for one in node.held] == [(OTHER, True)]


def test_people_read_how_far_it_is() -> None:
    progress = Progress()
    assert str(progress) == "Waiting"
    progress.take({"event": "resolved"})
    assert str(progress) == "Staging"
    progress.take({"event": "progress", "bytes": 41, "total": 100, "bytes_per_s": 5, "source": "origin"})
    assert str(progress) == "Staging 41 %, 12 s left, from origin"
    progress.take({"event": "progress", "bytes": 0, "total": 10**12, "bytes_per_s": 10**9, "source": "peer"})
    assert str(progress) == "Staging 0 %, 17 min left, from peer"
    progress.take({"event": "trouble", "message": "the origin does not answer"})
    assert str(progress) == "Staging: the origin does not answer"
    progress.take({"event": "progress", "bytes": 50, "total": 100, "bytes_per_s": 0, "source": ""})
    assert str(progress) == "Staging 50 %"
    progress.take({"event": "verifying"})
    assert str(progress) == "Verifying"


@pytest.mark.parametrize("kind", [Misconfigured, NotFound, Denied, Corrupt, Busy, Full, Unavailable, Bug])
def test_every_error_has_a_status_and_a_text_that_fits_an_event(kind: type[PrestageError]) -> None:
    code, text = answered(kind("why " * 1000, hint="what next"))
    assert code.name not in ("OK", "UNKNOWN")
    assert len(text) <= MESSAGE_MAX


def test_our_own_token_says_which_node_we_are_on() -> None:
    claims = base64.urlsafe_b64encode(json.dumps({"kubernetes.io": {"node": {"name": "n", "uid": "u"}}}).encode()).decode()
    assert node_uid_of(f"head.{claims.rstrip('=')}.tail\n") == "u"
    for other in ("", "a.b.c", "opaque", f"head.{base64.urlsafe_b64encode(b'{}').decode()}.tail", "a.W10.c"):
        assert node_uid_of(other) is None
