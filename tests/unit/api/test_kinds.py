"""The types are the one source: of what is committed, of the schema, of reading and writing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cluster.wrong import WRONG, changed
from prestage.api.crds import crd, crds
from prestage.api.kinds import KINDS
from prestage.api.models import StagedModel
from prestage.api.reading import Invalid, read, written
from prestage.api.reference import reference
from prestage.api.values import Stored

HOUSE = Path(__file__).resolve().parents[3]
EXAMPLES = list(yaml.safe_load_all((HOUSE / "daemonset" / "examples" / "kinds.yaml").read_text()))
BY_NAME: dict[str, type[Stored]] = {kind.name: kind.type for kind in KINDS if issubclass(kind.type, Stored)}


def nodes(schema: object, path: str) -> Iterator[tuple[str, dict[str, object]]]:
    if isinstance(schema, dict):
        yield path, schema
        for name, part in (schema.get("properties") or {}).items():
            yield from nodes(part, f"{path}.{name}")
        yield from nodes(schema.get("items"), f"{path}[]")


ALL = [
    (f"{kind.name}{path}", node)
    for kind in KINDS
    for path, node in nodes(crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"], "")  # type: ignore[index]  # YAML
    if ".metadata" not in path and path not in (".kind", ".apiVersion")
]


def test_what_is_committed_is_what_is_written_now() -> None:
    assert (HOUSE / "daemonset/chart-crds/templates/crds.yaml").read_text() == crds(), "make api"
    assert (HOUSE / "docs/kubernetes-api.md").read_text() == reference(), "make api"


def test_the_command_prints_the_definitions() -> None:
    argv = [sys.executable, "-m", "prestage.api"]
    run = subprocess.run([*argv, "crds"], capture_output=True, text=True, timeout=60, cwd=HOUSE / "daemonset", check=True)
    assert [one["spec"]["names"]["kind"] for one in yaml.safe_load_all(run.stdout)] == list(BY_NAME)
    wrong = subprocess.run(argv, capture_output=True, text=True, timeout=60, cwd=HOUSE / "daemonset", check=False)
    assert (wrong.returncode, wrong.stderr) == (2, "usage: python -m prestage.api crds|docs\n")


def test_helm_takes_nothing_in_the_definitions_for_a_template() -> None:
    assert "{{" not in crds()


def test_every_field_is_described() -> None:
    assert [path for path, node in ALL if not node.get("description")] == []


def test_every_text_and_list_is_bounded_and_every_list_says_how_it_merges() -> None:
    unbounded = [
        path
        for path, node in ALL
        if (node.get("type") == "string" and not (node.keys() & {"maxLength", "enum"}) and node.get("format") != "date-time")
        or (node.get("type") == "array" and not {"maxItems", "x-kubernetes-list-type"} <= node.keys())
    ]
    assert unbounded == []


def test_no_field_is_a_float_and_every_enum_is_camel_case() -> None:
    assert [path for path, node in ALL if node.get("type") == "number"] == []
    choices = [str(value) for _, node in ALL for value in (node.get("enum") or ())]  # type: ignore[attr-defined]  # a list
    assert [value for value in choices if not (value[0].isupper() and value.isalnum())] == []


def test_every_kind_with_conditions_shows_ready() -> None:
    assert [kind.name for kind in KINDS if kind.conditions and "Ready" not in {column.name for column in kind.columns}] == []


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda one: f"{one['kind']}-{one['metadata']['name']}"[:40])
def test_every_example_is_read_and_written_the_same(example: dict[str, object]) -> None:
    kind = BY_NAME[str(example["kind"])]
    once = read(kind, example)
    assert read(kind, written(once)) == once
    assert written(once)["kind"] == example["kind"]


def test_every_kind_has_an_example() -> None:
    assert {str(example["kind"]) for example in EXAMPLES} == set(BY_NAME)


@pytest.mark.parametrize(
    ("change", "path", "says"),
    [
        ({"source": "file:///etc"}, "spec.source", "write hf://org/name"),
        ({"source": 3}, "spec.source", "Expected `str`, got `int`"),
        ({"type": "Modell"}, "spec.type", "Invalid enum value 'Modell'"),
        ({"originRef": {"name": "No_Such"}}, "spec.originRef.name", "lower-case letters"),
        ({"files": {"include": [""]}}, "spec.files.include[0]", "length >= 1"),
    ],
)
def test_what_is_wrong_is_said_with_its_path(change: dict[str, object], path: str, says: str) -> None:
    raw = {"apiVersion": "prestage.dev/v1alpha1", "kind": "StagedModel", "metadata": {}, "spec": {"source": "hf://o/n", **change}}
    with pytest.raises(Invalid) as caught:
        read(StagedModel, raw)
    assert (caught.value.path, says in caught.value.message) == (path, True)


@pytest.mark.parametrize(("kind", "changes", "says"), WRONG, ids=lambda value: value[:60] if isinstance(value, str) else None)
def test_what_the_api_server_refuses_is_refused_here_too(kind: str, changes: dict[str, object], says: str) -> None:
    with pytest.raises(Invalid) as caught:
        read(BY_NAME[kind], json.loads(changed(kind, "wrong", changes)))
    servers_own = ("Required value", "supported values", "should ", "spec.digest")
    assert says in caught.value.message or any(word in says for word in servers_own)


def test_a_version_that_is_not_ours_is_refused_and_fields_of_the_next_one_pass() -> None:
    raw = {
        "apiVersion": "prestage.dev/v1alpha1",
        "kind": "StagedModel",
        "metadata": {"name": "a"},
        "spec": {"source": "hf://o/n"},
    }
    assert read(StagedModel, {**raw, "spec": {"source": "hf://o/n", "later": 1}}) == read(StagedModel, raw)
    with pytest.raises(Invalid, match=r"apiVersion: 'prestage.dev/v2' is not"):
        read(StagedModel, {**raw, "apiVersion": "prestage.dev/v2"})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["spec", "source", "files", "include", "x"]), inner)
    ),
    max_leaves=12,
)


@given(st.sampled_from(sorted(BY_NAME)), JSON)
def test_whatever_json_comes_is_read_or_answered(name: str, raw: object) -> None:
    try:
        read(BY_NAME[name], raw)
    except Invalid as exc:
        assert exc.message
