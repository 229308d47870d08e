"""Every route of the agent, asked over its socket; what it answers is what its OpenAPI document says."""

from __future__ import annotations

import http.client
import time
from pathlib import Path

import pytest
from agents import Agent, wait_for
from agents.contract import UnixConnection
from openapi_spec_validator import validate

from prestage.cacher.agent.client import AgentClient, AgentGone
from prestage.cacher.agent.routes import ROUTES
from prestage.cacher.errors import NotFound
from servers import faults
from servers.hostile import Hostile

from .conftest import MODEL

NOWHERE = "sha256:" + "0" * 64


def test_the_document_is_valid_openapi_and_names_every_route(standing: Agent) -> None:
    document = standing.contract.document
    validate(document)
    named = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert named == {(route.method, route.path) for route in ROUTES}


def test_a_model_is_staged_listed_resolved_held_verified_and_let_go_of(agent: Agent, origin: Hostile, data: bytes) -> None:
    url = origin.url(MODEL)
    done = agent.stage(url)
    assert (done["event"], done["bytes"], done["bytes_by_source"]) == ("done", len(data), {"origin": len(data)})
    artifact = done["artifact"]
    (row,) = agent.ask("GET", "/v1/artifacts").good
    assert (row["artifact"], row["ref"], row["state"], row["bytes"]) == (artifact, url, "staged", len(data))
    for named in (url, artifact):
        resolved = agent.ask("GET", "/v1/resolve", query={"ref": named}).good
        assert (Path(resolved["path"]) / "model.safetensors").read_bytes() == data
    held = agent.ask("POST", "/v1/holds", {"ref": url, "ttl_s": 60, "note": "a test"}).good
    refused = agent.ask("POST", "/v1/evict", {"ref": url})
    assert (refused.status, refused.body["kind"]) == (423, "busy")
    assert "a test" in refused.body["message"]
    assert "a test" in str(agent.ask("GET", "/v1/explain", query={"ref": url}).good["why"])
    for _ in range(2):  # idempotent
        assert agent.ask("DELETE", f"/v1/holds/{artifact}/{held['hold']}").status == 204
    agent.ask("POST", "/v1/holds", {"ref": url, "kind": "pin"}).good  # noqa: B018 - it must be
    assert agent.ask("DELETE", "/v1/pins", query={"ref": url}).good["pins"] == 1
    with agent.stream("POST", "/v1/verify", {"ref": url}) as events:
        assert events.last() | {"files": 1, "bytes": len(data), "bad": []} == events.seen[-1]
    freed_bytes = agent.ask("POST", "/v1/evict", {"ref": url}).good["freed_bytes"]
    assert freed_bytes <= len(data) + 4096  # by statvfs: less, when others write to this disk meanwhile
    assert agent.ask("GET", "/v1/status").good["usage"]["used"] == 0
    gone = agent.ask("GET", "/v1/explain", query={"ref": artifact}).good
    assert gone["state"] == "absent"
    assert "by hand" in str(gone["why"])
    assert agent.ask("GET", "/v1/resolve", query={"ref": url}).status == 404
    status = agent.ask("GET", "/v1/status").good
    assert (status["pid"], status["ready"], status["paused"], status["artifacts"]) == (agent.pid, True, False, 0)


def test_stages_are_followed_paused_resumed_and_taken_back_by_id(agent: Agent, origin: Hostile) -> None:
    origin.choose = lambda request: faults.Drip(4e6) if request.method == "GET" else None
    url = origin.url(MODEL)
    view = agent.ask("POST", "/v1/stages", {"ref": url, "keep": True, "priority": "follow-on"}).good
    assert (view["ref"], view["keep"], view["priority"]) == (url, True, "follow-on")
    with agent.stream("GET", f"/v1/stages/{view['id']}") as events:
        assert events.until("stage")["id"] == view["id"]
        events.until("progress")
        assert agent.ask("POST", f"/v1/stages/{view['id']}/pause").status == 204
        events.until("paused")
        assert agent.wait_for_stage(url, lambda stage: stage["paused"])["state"] == "paused"
        assert "paused" in str(agent.ask("GET", "/v1/explain", query={"ref": url}).good["why"])
        assert agent.ask("POST", f"/v1/stages/{view['id']}/resume").status == 204
        events.until("progress")
        assert agent.ask("DELETE", f"/v1/stages/{view['id']}").status == 204
        assert events.last()["kind"] == "unavailable"
    ended = agent.wait_for_stage(url, lambda stage: stage["state"] == "failed")
    assert "taken back" in ended["problem"]["message"]


def test_everything_is_told_to_who_listens_to_events(agent: Agent, origin: Hostile) -> None:
    with agent.stream("GET", "/v1/events") as events:
        assert agent.stage(origin.url("/small-0"))["event"] == "done"
        assert events.until("staged")["ref"] == origin.url("/small-0")
        assert agent.ask("POST", "/v1/evict", {"ref": origin.url("/small-0")}).status == 200
        assert events.until("evicted")["why"] == "by hand"
        assert agent.ask("POST", "/v1/pause").status == 204
        events.until("paused")
        assert agent.ask("POST", "/v1/resume").status == 204
        events.until("resumed")


REFUSED: dict[str, tuple[str, str, dict[str, object] | None, dict[str, object], int, str]] = {
    "an unknown stage": ("GET", "/v1/stages/none", None, {}, 404, "none"),
    "pausing an unknown stage": ("POST", "/v1/stages/none/pause", None, {}, 404, "none"),
    "taking back an unknown stage": ("DELETE", "/v1/stages/none", None, {}, 404, "none"),
    "resolving what is not here": ("GET", "/v1/resolve", None, {"ref": NOWHERE}, 404, "not"),
    "holding what is not here": ("POST", "/v1/holds", {"ref": NOWHERE}, {}, 404, "not"),
    "evicting what is not here": ("POST", "/v1/evict", {"ref": NOWHERE}, {}, 404, "not"),
    "no ref": ("GET", "/v1/resolve", None, {}, 400, "ref"),
    "two refs": ("GET", "/v1/resolve", None, {"ref": ["a", "b"]}, 400, "2 times"),
    "an unknown field": ("POST", "/v1/evict", {"ref": NOWHERE, "force": True}, {}, 400, "force"),
    "an unknown query": ("GET", "/v1/resolve", None, {"ref": NOWHERE, "force": 1}, 400, "force"),
    "a malformed ref": ("POST", "/v1/stages", {"ref": "ftp://x"}, {}, 400, "scheme"),
    "an unknown priority": ("POST", "/v1/stages", {"ref": "file:///a", "priority": "now"}, {}, 400, "priority"),
    "a hold for ever": ("POST", "/v1/holds", {"ref": NOWHERE, "ttl_s": 1e300}, {}, 400, "ttl_s"),
    "a hold's name that is a path": ("DELETE", f"/v1/holds/{NOWHERE}/..%2f..%2fformat", None, {}, 404, "hold"),
    "a hold's name with a NUL": ("DELETE", f"/v1/holds/{NOWHERE}/pin-%00", None, {}, 404, "hold"),
    "a hold of what is no artifact": ("DELETE", "/v1/holds/sha256:12/pin-0123456789abcdef", None, {}, 400, "sha256:12"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_a_problem_that_names_it(name: str, standing: Agent) -> None:
    method, path, body, query, status, says = REFUSED[name]
    answer = standing.ask(method, path, body, query=query)
    assert answer.status == status, answer
    assert says in answer.body["message"]
    assert answer.body["hint"]


def test_a_stage_that_cannot_be_is_refused_instead_of_streamed(standing: Agent) -> None:
    with standing.stream("POST", "/v1/stage", {"ref": "no ref"}) as events:
        assert events.refused is not None
        assert events.refused.status == 400
    with standing.stream("POST", "/v1/stage", {"ref": "file:///no/such/place"}) as events:
        assert events.last()["kind"] == "miss"
    with standing.stream("POST", "/v1/verify", {"ref": NOWHERE}) as events:
        assert events.last()["kind"] == "miss"


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/v2/nothing", 404), ("PUT", "/v1/status", 405), ("GET", "/", 404)]
)
def test_what_is_not_in_the_document_is_a_problem_too(method: str, path: str, status: int, standing: Agent) -> None:
    connection = UnixConnection(standing.socket)
    connection.request(method, path)
    response = connection.getresponse()
    assert (response.status, response.getheader("Content-Type")) == (status, "application/json")
    assert b"misconfigured" in response.read()
    connection.close()


def test_a_hold_that_cannot_be_used_leaves_nothing_behind(agent: Agent, origin: Hostile) -> None:
    url = origin.url("/small-1")
    path = Path(agent.stage(url)["path"])
    file = path / "small-1"
    file.chmod(0o600)
    with file.open("r+b") as damaged:
        damaged.write(b"wrong")
    assert agent.prestage("verify").code == 5
    assert agent.ask("POST", "/v1/holds", {"ref": url, "kind": "pin"}).body["kind"] == "corrupt"
    (row,) = agent.ask("GET", "/v1/artifacts").good
    assert row["holds"] == []


def test_what_was_evicted_is_not_resolved_from_memory(standing: Agent, origin: Hostile) -> None:
    url = origin.url("/small-2")
    for _ in range(10):
        standing.stage(url)
        assert standing.ask("GET", "/v1/resolve", query={"ref": url}).status == 200
        standing.ask("POST", "/v1/evict", {"ref": url}).good  # noqa: B018 - it must be
        assert standing.ask("GET", "/v1/resolve", query={"ref": url}).status == 404


def test_metrics_and_health_say_how_it_is(agent: Agent, origin: Hostile) -> None:
    agent.stage(origin.url("/small-3"))
    agent.stage("file:///no/such/place")
    where = agent.ask("GET", "/v1/status").good["metrics"]
    said = {}
    for path in ("/metrics", "/healthz", "/readyz"):
        connection = http.client.HTTPConnection(where, timeout=30)
        connection.request("GET", path)
        response = connection.getresponse()
        assert response.status == 200
        said[path] = response.read().decode()
        connection.close()
    lines = said["/metrics"].splitlines()
    assert "prestage_ready 1.0" in lines
    assert 'prestage_stages_ended_total{outcome="done"} 1.0' in lines
    assert 'prestage_stages_ended_total{outcome="miss"} 1.0' in lines
    assert 'prestage_staged_bytes_total{source="origin"} 40003.0' in lines
    used = next(line for line in lines if line.startswith('prestage_store_bytes{what="used"}'))
    assert float(used.split()[1]) >= 40_003


def test_the_client_tells_an_agent_that_has_gone_from_one_that_says_no(standing: Agent, tmp_path: Path) -> None:
    client = AgentClient.of(standing.root)
    assert client is not None
    assert client.call("GET", "/v1/status")["ready"]
    with pytest.raises(NotFound, match="not"):
        client.call("GET", "/v1/resolve", query={"ref": NOWHERE})
    with pytest.raises(AgentGone):
        AgentClient(tmp_path / "none.sock").call("GET", "/v1/status")
    assert AgentClient.of(tmp_path) is None
    began = time.monotonic()
    assert AgentClient.awaited(tmp_path, 0.2) is None
    assert time.monotonic() - began < 10


def test_every_route_was_judged_at_least_once(agent: Agent, origin: Hostile, tmp_path: Path) -> None:
    """A route that is added must be asked here: by its good answer, not only by a problem."""
    url = origin.url("/small-4")
    done = agent.stage(url)
    origin.choose = lambda request: faults.Drip(1e5) if request.method == "GET" else None
    stage = agent.ask("POST", "/v1/stages", {"ref": origin.url(MODEL), "keep": True}).good["id"]
    for method, path, body, query in (
        ("GET", "/v1/status", None, {}),
        ("GET", "/v1/artifacts", None, {}),
        ("GET", "/v1/stages", None, {}),
        ("GET", "/v1/resolve", None, {"ref": url}),
        ("GET", "/v1/explain", None, {"ref": url}),
        ("POST", f"/v1/stages/{stage}/pause", None, {}),
        ("POST", f"/v1/stages/{stage}/resume", None, {}),
        ("POST", "/v1/pause", None, {}),
        ("POST", "/v1/resume", None, {}),
        ("DELETE", f"/v1/stages/{stage}", None, {}),
        ("DELETE", "/v1/pins", None, {"ref": url}),
    ):
        assert agent.ask(method, path, body, query=query).status < 300, path
    sock = str(tmp_path / "pod.sock")
    assert agent.ask("POST", "/v1/sockets", {"path": sock, "artifacts": {"m": done["artifact"]}}).status == 204
    assert agent.ask("DELETE", "/v1/sockets", query={"path": sock}).status == 204
    asked = {"parts": [{"name": "m", "artifact": done["artifact"]}], "pod": "uid", "target": "/target"}
    tree = agent.ask("POST", "/v1/trees", asked).good
    assert [one["hold"] for one in agent.ask("GET", "/v1/trees").good] == [tree["hold"]]
    assert agent.ask("DELETE", f"/v1/trees/{tree['hold']}").status == 204
    assert agent.ask("POST", "/v1/report", {"artifact": done["artifact"], "path": "small-4"}).status == 200
    held = agent.ask("POST", "/v1/holds", {"ref": url}).good
    assert agent.ask("DELETE", f"/v1/holds/{done['artifact']}/{held['hold']}").status == 204
    assert agent.ask("POST", "/v1/evict", {"ref": url}).status == 200
    here = {"path": str(tmp_path / "nothing")}
    streams: tuple[tuple[str, str, dict[str, str] | None], ...] = (
        ("GET", f"/v1/stages/{stage}", None),
        ("GET", "/v1/events", None),
        ("POST", "/v1/verify", {}),
        ("POST", "/v1/adopt", here),
        ("POST", "/v1/import", here),
    )
    for method, path, body in streams:
        with agent.stream(method, path, body) as events:
            next(iter(events))
    wait_for(lambda: agent.stages()[origin.url(MODEL)]["state"] == "failed")
    judged = {(method, path) for method, path, status in agent.contract.seen if status < 300}
    missing = {(route.method, route.path) for route in ROUTES} - judged
    assert missing <= {("POST", "/v1/report"), ("POST", "/v1/sockets"), ("DELETE", "/v1/sockets")}, missing
