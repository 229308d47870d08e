"""An artifact's origin by the broker's word: what is believed, kept, asked anew, and refused."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from prestage.api.brokerage import Fetch, FetchesAnswer, FetchesRequest, ManifestAnswer, Refusal
from prestage.api.nodes import ErrorClass
from prestage.cacher.agent.service import Service
from prestage.cacher.digests import ArtifactId
from prestage.cacher.errors import Corrupt, Denied, PrestageError, Unavailable
from prestage.cacher.manifest import FileEntry, Manifest, manifest_of
from prestage.cacher.net.config import NetConfig
from prestage.cacher.net.errors import AddressRefused, NetError
from prestage.cacher.net.policy import AddressPolicy
from prestage.cacher.net.ports import HttpRequest, ResponseHead
from prestage.cacher.origins.ports import FileRead, Next, Selection
from prestage.cacher.refs import ArtifactRef
from prestage.cacher.store.store import Store
from prestage.cacher.transfer.ports import Cancelled
from prestage.node.broker_origin import Asking, BrokerOrigin, Senders
from prestage.node.sync import NodeSettings, NodeSync
from prestage.node.trust import Trusted
from prestage.wire.broker_client import BrokerClient, Refused
from servers.faults import Status
from servers.hostile import Hostile

FILES = [FileEntry(f"{number:03}.bin", 10) for number in range(300)]
MANIFEST = manifest_of("s3:https://s3.test/bucket", "", FILES)


@dataclass
class Broker:
    manifest_text: str = MANIFEST.to_bytes().decode()
    lasting_s: float | None = 900.0
    refusal: PrestageError | None = None
    asked: list[list[str]] = field(default_factory=list)
    hangs: bool = False
    allowed: list[str] | None = None
    mirror: str | None = None
    trusts: bool = False
    primary: list[bool] = field(default_factory=list)

    async def manifest(self, artifact: str, *, deadline_s: float | None = None) -> ManifestAnswer:
        if self.hangs:
            await asyncio.sleep(60)
        if self.refusal is not None:
            raise self.refusal
        return ManifestAnswer(manifest=self.manifest_text, trust_digests=self.trusts)

    async def fetches(self, request: FetchesRequest, *, deadline_s: float | None = None) -> FetchesAnswer:
        self.asked.append(request.paths)
        self.primary.append(not request.mirrors)
        is_mirror = self.mirror is not None and request.mirrors
        expires_at = None if self.lasting_s is None else time.time() + self.lasting_s
        number = len(self.asked)
        place = self.mirror if is_mirror else "https://s3.test"
        fetches = [Fetch(path=path, url=f"{place}/{path}?{number}", expires_at=expires_at) for path in request.paths]
        allowed = ["127.0.0.0/8"] if is_mirror else self.allowed
        return FetchesAnswer(fetches=fetches, authority=MANIFEST.authority, allowed_cidrs=allowed, is_mirror=is_mirror)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    thread = threading.Thread(target=made.run_forever)
    thread.start()
    yield made
    made.call_soon_threadsafe(made.stop)
    thread.join()
    made.close()


@dataclass
class World:
    broker: Broker
    asking: Asking
    senders: Senders

    def origin(self, manifest: Manifest = MANIFEST, cancel: threading.Event | None = None) -> BrokerOrigin:
        return BrokerOrigin(ArtifactRef(manifest.artifact), self.asking, self.senders, cancel or threading.Event())


@pytest.fixture
def world(loop: asyncio.AbstractEventLoop, tmp_path: Path) -> Iterator[World]:
    broker = Broker()
    senders = Senders(NetConfig(), AddressPolicy.tenant(refuse_private=True), tmp_path)
    yield World(broker, Asking(broker, loop), senders)
    senders.close()


def url_of(origin: BrokerOrigin, file: FileEntry) -> str:
    request = origin.request(MANIFEST, file)
    assert isinstance(request, HttpRequest)
    return request.url


def test_content_that_comes_with_the_answer_is_read_from_a_file_that_goes_with_the_stage(world: World, tmp_path: Path) -> None:
    origin = world.origin()
    url_of(origin, FILES[0])
    origin._fetches["000.bin"] = Fetch(path="000.bin", url="", body=b"0123456789")
    read = origin.request(MANIFEST, FILES[0])
    assert isinstance(read, FileRead)
    assert Path(read.path).read_bytes() == b"0123456789"
    assert [path.name.split("-")[0] for path in tmp_path.iterdir()] == ["contents"]
    del origin
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_content_that_a_killed_agent_left_goes_when_the_next_one_starts(tmp_path: Path) -> None:
    with Store.open(tmp_path, own=True):
        pass
    above = tmp_path / "node"
    above.mkdir()
    (left := Senders(NetConfig(), AddressPolicy.tenant(), above).contents()).joinpath("secret").write_bytes(b"0123456789")
    (kept := above / "plan.json").write_text("{}")
    sync = NodeSync(NodeSettings(tmp_path, "n1", tmp_path / "token"), cast("BrokerClient", SimpleNamespace()))
    asyncio.run(sync.start(cast("Service", SimpleNamespace(mounts=SimpleNamespace()))))
    assert not left.exists()
    assert kept.exists()


def test_a_manifest_is_what_its_name_says_or_nothing(world: World) -> None:
    assert world.origin().resolve(Selection()) == MANIFEST
    other = manifest_of("s3:https://s3.test/other", "", FILES[:1])
    with pytest.raises(Corrupt):
        world.origin(other).resolve(Selection())


def test_files_of_a_machine_are_refused_whoever_names_them(world: World) -> None:
    local = manifest_of("file:host", "/etc/", FILES[:1])
    world.broker.manifest_text = local.to_bytes().decode()
    with pytest.raises(Denied, match="no node serves"):
        world.origin(local).resolve(Selection())


def test_fetches_are_asked_for_many_at_once_and_kept_while_they_are_good(world: World) -> None:
    origin = world.origin()
    urls = [url_of(origin, file) for file in FILES]
    assert [len(paths) for paths in world.broker.asked] == [256, 44]
    assert urls[0].endswith("000.bin?1")
    assert [url_of(origin, file) for file in FILES] == urls
    assert len(world.broker.asked) == 2


def test_what_is_about_to_expire_is_asked_for_anew(world: World) -> None:
    world.broker.lasting_s = 20.0
    origin = world.origin()
    assert url_of(origin, FILES[0]) != url_of(origin, FILES[0])
    world.broker.lasting_s = None
    origin = world.origin()
    assert url_of(origin, FILES[0]) == url_of(origin, FILES[0])


def test_a_refused_fetch_is_asked_for_anew_unless_it_is_new(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    origin = world.origin()
    url = url_of(origin, FILES[0])
    expired = ResponseHead(403, {})
    assert origin.judge(FILES[0], expired, b"").next is Next.FATAL
    began = time.time()
    monkeypatch.setattr("prestage.node.broker_origin.time.time", lambda: began + 100)
    assert origin.judge(FILES[0], expired, b"").next is Next.REFRESH
    origin.refresh(FILES[0])
    assert url_of(origin, FILES[0]) != url
    assert origin.judge(FILES[0], expired, b"").next is Next.FATAL
    assert origin.judge(FILES[0], ResponseHead(404, {}), b"").next is Next.CHANGED
    assert origin.judge(FILES[0], ResponseHead(503, {}), b"").next is Next.RETRY


def refused(error: type[PrestageError], code: str) -> PrestageError:
    made = error("no")
    made.__cause__ = Refused(Refusal(error_class=ErrorClass.DENIED, code=code, message="no"))
    return made


def test_what_the_plan_does_not_list_yet_passes_other_refusals_do_not(world: World) -> None:
    world.broker.refusal = refused(Denied, "NotInPlan")
    with pytest.raises(Unavailable):
        world.origin().resolve(Selection())
    world.broker.refusal = refused(Denied, "NoCredentials")
    with pytest.raises(Denied):
        world.origin().resolve(Selection())
    assert world.asking.codes == {MANIFEST.artifact: "NoCredentials"}
    world.broker.refusal = None
    world.origin().resolve(Selection())
    assert world.asking.codes == dict[ArtifactId, str]()


def test_a_question_ends_when_the_stage_does(world: World) -> None:
    world.broker.hangs = True
    cancel = threading.Event()
    threading.Timer(0.1, cancel.set).start()
    with pytest.raises(Cancelled):
        world.origin(cancel=cancel).resolve(Selection())


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "http://10.0.0.1:1/", "http://169.254.169.254/"])
def test_requests_go_to_public_addresses_and_where_the_broker_lets_them(world: World, url: str) -> None:
    with pytest.raises(AddressRefused):
        world.origin().client.open(HttpRequest(url))


def test_the_broker_lets_a_network_be_reached(world: World) -> None:
    world.broker.allowed = ["127.0.0.0/8"]
    origin = world.origin()
    origin.request(MANIFEST, FILES[0])
    with pytest.raises(Exception, match="refused"):  # nobody listens: but it was asked
        origin.client.open(HttpRequest("http://127.0.0.1:1/"))
    with pytest.raises(AddressRefused):
        origin.client.open(HttpRequest("http://10.0.0.1:1/"))


@pytest.mark.parametrize("status", [404, 412, 416, 403, 503])
def test_a_mirror_that_answers_wrongly_is_left_for_the_rest_of_the_stage_and_for_the_next_one(world: World, status: int) -> None:
    with Hostile() as server:
        server.always.append(Status(status))
        world.broker.mirror = server.url("")
        origin = world.origin()
        left(origin, url_of(origin, FILES[0]))
        assert url_of(origin, FILES[0]).startswith("https://s3.test/")
        assert url_of(origin, FILES[1]).startswith("https://s3.test/"), "what the mirror was to give is forgotten"
        assert origin.judge(FILES[0], ResponseHead(404, {}), b"").next is Next.CHANGED
        assert world.broker.primary == [False, True]
        assert url_of(world.origin(), FILES[0]).startswith("https://s3.test/"), "begun again: the mirror did not do"
        other = manifest_of("s3:https://s3.test/bucket", "", FILES[:2])
        assert isinstance(found := world.origin(other).request(other, FILES[0]), HttpRequest)
        assert found.url.startswith(server.url("/")), "another artifact is another question"


def left(origin: BrokerOrigin, url: str) -> None:
    """What is sent there comes to nothing, and is to be tried again."""
    with pytest.raises(NetError) as found:
        origin.client.open(HttpRequest(url))
    assert found.value.retryable


def test_what_is_on_its_way_to_a_mirror_that_was_left_is_judged_as_the_mirrors(world: World) -> None:
    with Hostile() as server:
        server.always.append(Status(403))
        world.broker.mirror = server.url("")
        origin = world.origin()
        first, second, third = (url_of(origin, file) for file in FILES[:3])
        left(origin, first)
        left(origin, second)
        assert url_of(origin, FILES[2]).startswith("https://s3.test/"), "another thread asked anew"
        left(origin, third)
        assert len(server.requests) == 3, "sent by the networks of the mirror's own answer"
        assert world.broker.primary == [False, True], "and nothing is asked once more"


def test_a_file_that_came_wrong_from_a_mirror_comes_from_the_origin(world: World) -> None:
    world.broker.mirror = "https://mirror.test"
    origin = world.origin()
    assert url_of(origin, FILES[0]).startswith("https://mirror.test/")
    origin.refresh(FILES[0])
    assert [url_of(origin, file)[:16] for file in FILES[:2]] == ["https://s3.test/"] * 2


def test_an_origin_whose_digests_are_believed_is_told_with_its_manifest_and_taken_back(world: World) -> None:
    trusted = world.asking.trusted
    assert MANIFEST.authority not in trusted
    for is_trusted in (True, False):
        world.broker.trusts = is_trusted
        world.origin().resolve(Selection())
        assert (MANIFEST.authority in trusted) is is_trusted
    named = Trusted(["s3:https://always/b"])
    named.tell("s3:https://always/b", is_trusted=False)
    named.tell("other", is_trusted=True)
    assert (set(named), len(named)) == ({"s3:https://always/b", "other"}, 2), "what the node's owner named stays"


def test_a_mirror_that_nobody_reaches_is_left_whatever_the_reason(world: World) -> None:
    world.broker.mirror = "http://127.0.0.1:9"
    origin = world.origin()
    left(origin, url_of(origin, FILES[0]))
    assert url_of(origin, FILES[0]).startswith("https://s3.test/")
    forbidden = HttpRequest("http://127.0.0.1:9/")
    with pytest.raises(AddressRefused):
        origin.client.open(forbidden)
