"""Annotations: what is right is read, every mistake is named with its annotation, what is wrong and an example."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prestage.api.annotations import (
    SETTINGS,
    Layout,
    Mistake,
    Mistakes,
    ModelRequest,
    OnTimeout,
    Request,
    StagedModelName,
    WaitFor,
    parse,
)
from prestage.cacher.refs import HfRef

MODEL = {"model.prestage.dev/llama": "hf://org/name@main"}


def mistakes(annotations: dict[str, str]) -> tuple[Mistake, ...]:
    with pytest.raises(Mistakes) as caught:
        parse(annotations)
    return caught.value.mistakes


def test_one_line_is_enough_and_the_rest_has_its_defaults() -> None:
    assert parse(MODEL) == Request(models=(ModelRequest("llama", HfRef("org/name", "main"), "hf://org/name@main"),))


def test_everything_that_can_be_said_is_read() -> None:
    request = parse(
        {
            **MODEL,
            "model.prestage.dev/support": "ref:team-b/support",
            "model.prestage.dev/own": "ref:own",
            "prestage.dev/credentials": "hf-token",
            "prestage.dev/mount-path": "/srv/models",
            "prestage.dev/layout": "HuggingFace",
            "prestage.dev/containers": "server, sidecar",
            "prestage.dev/gate-timeout": "2m",
            "prestage.dev/on-timeout": "Fail",
            "prestage.dev/ready-schedule": "0 8 * * mon-fri",
            "prestage.dev/time-zone": "Europe/Berlin",
            "prestage.dev/duration": "10h",
            "prestage.dev/replicas": "4",
            "example.com/theirs": "left alone",
        }
    )
    assert [(one.alias, one.source) for one in request.models if isinstance(one.source, StagedModelName)] == [
        ("own", StagedModelName("own")),
        ("support", StagedModelName("support", "team-b")),
    ]
    assert (request.credentials, request.mount_path, request.layout) == ("hf-token", "/srv/models", Layout.HUGGING_FACE)
    assert (request.containers, request.wait) == (("server", "sidecar"), WaitFor.AUTO)
    assert (request.gate_timeout_s, request.on_timeout) == (120.0, OnTimeout.FAIL)
    assert request.schedule is not None
    assert (request.schedule.time_zone, request.schedule.duration_s, request.schedule.replicas) == ("Europe/Berlin", 36000.0, 4)
    assert request.schedule.cron.weekdays == {1, 2, 3, 4, 5}


def test_annotations_of_others_ask_for_nothing() -> None:
    assert parse({"example.com/a": "b", "notprestage.dev/layout": "Flat", "prestage.dev.example/x": "y"}) == Request()


@pytest.mark.parametrize(
    ("annotation", "value", "says"),
    [
        ("prestage.dev/layout", "huggingface", "none of Directory, HuggingFace, Flat"),
        ("prestage.dev/wait", "", "none of Auto, Mount, None"),
        ("prestage.dev/on-timeout", "Retry", "none of Mount, Fail"),
        ("prestage.dev/mount-path", "models", "no absolute path"),
        ("prestage.dev/mount-path", "/models/../etc", "no absolute path"),
        ("prestage.dev/mount-path", "/", "no absolute path"),
        ("prestage.dev/mount-path", "/usr/share", "would hide"),
        ("prestage.dev/mount-path", "/var", "would hide"),
        ("prestage.dev/containers", "a,,b", "no name of a container"),
        ("prestage.dev/containers", "a,a", "named twice"),
        ("prestage.dev/credentials", "Token!", "no name of a Secret"),
        ("prestage.dev/gate-timeout", "150", "no duration"),
        ("prestage.dev/gate-timeout", "2h", "between 1s and 1h"),
        ("prestage.dev/mount-pat", "/x", "no such annotation"),
        ("prestage.dev/", "x", "no such annotation"),
        ("artifact.prestage.dev/llama", "sha256:0", "only admission writes it"),
        ("model.prestage.dev/", "hf://org/name", "directory name"),
        ("model.prestage.dev/..", "hf://org/name", "directory name"),
        ("model.prestage.dev/a", "hf://org", "not a Hugging Face ref"),
        ("model.prestage.dev/a", "file:///etc", "not served in a cluster"),
        ("model.prestage.dev/a", "http://host/f", "only https://"),
        ("model.prestage.dev/a", "https://host/f?sig=secret", "only https:// without a query"),
        ("model.prestage.dev/a", "ref:", "ref:NAME or ref:NAMESPACE/NAME"),
        ("model.prestage.dev/a", "ref:/name", "ref:NAME or ref:NAMESPACE/NAME"),
        ("model.prestage.dev/a", "ref:a/b/c", "ref:NAME or ref:NAMESPACE/NAME"),
        ("prestage.dev/ready-schedule", "0 8 * *", "has 4 fields"),
        ("prestage.dev/ready-schedule", "0 25 * * *", "no hour from 0 to 23"),
        ("prestage.dev/ready-schedule", "0 0 30 2 *", "day that none of its months has"),
        ("prestage.dev/replicas", "-1", "no number"),
        ("prestage.dev/time-zone", "Mars/Olympus", "no time zone"),
        ("prestage.dev/time-zone", "../../etc/passwd", "no time zone"),
        ("prestage.dev/duration", "1s", "between 1m and a year"),
    ],
)
def test_a_mistake_names_the_annotation_what_is_wrong_and_an_example(annotation: str, value: str, says: str) -> None:
    schedule = {"prestage.dev/ready-schedule": "0 8 * * *", "prestage.dev/duration": "10h"}
    found = mistakes({**MODEL, **schedule, annotation: value})
    assert [one.annotation for one in found] == [annotation]
    assert says in found[0].wrong
    assert "secret" not in str(found[0])
    assert "prestage.dev/" in found[0].example


def test_a_slip_of_the_finger_is_shown_the_annotation_that_was_meant() -> None:
    assert mistakes({**MODEL, "prestage.dev/mountpath": "/x"})[0].example == 'prestage.dev/mount-path: "/models"'
    assert mistakes({**MODEL, "models.prestage.dev/a": "hf://org/name"})[0].example.startswith("model.prestage.dev/")


def test_every_mistake_is_answered_at_once() -> None:
    found = mistakes({"model.prestage.dev/a": "nonsense", "prestage.dev/layout": "flat", "prestage.dev/wait": "yes"})
    assert [one.annotation for one in found] == ["model.prestage.dev/a", "prestage.dev/layout", "prestage.dev/wait"]


@pytest.mark.parametrize(
    ("annotations", "about"),
    [
        ({"prestage.dev/layout": "Flat", **MODEL, "model.prestage.dev/b": "hf://org/b"}, "prestage.dev/layout"),
        ({"prestage.dev/wait": "None", "prestage.dev/gate-timeout": "10s", **MODEL}, "prestage.dev/gate-timeout"),
        ({"prestage.dev/wait": "Mount", "prestage.dev/on-timeout": "Fail", **MODEL}, "prestage.dev/on-timeout"),
        ({"prestage.dev/credentials": "hf-token", "model.prestage.dev/a": "ref:a"}, "prestage.dev/credentials"),
        ({"prestage.dev/replicas": "4", **MODEL}, "prestage.dev/replicas"),
        ({"prestage.dev/ready-schedule": "0 8 * * *", **MODEL}, "prestage.dev/duration"),
        ({"prestage.dev/layout": "Flat"}, "prestage.dev/layout"),
        ({f"model.prestage.dev/m{n}": "hf://org/name" for n in range(33)}, "model.prestage.dev/*"),
    ],
)
def test_what_contradicts_itself_is_refused(annotations: dict[str, str], about: str) -> None:
    assert [one.annotation for one in mistakes(annotations)] == [about]


def test_every_example_is_right() -> None:
    for setting in SETTINGS:
        with_it = {**MODEL, f"prestage.dev/{setting.name}": setting.example}
        if setting.name in ("time-zone", "duration", "replicas", "ready-schedule"):
            with_it |= {"prestage.dev/ready-schedule": "0 8 * * 1-5", "prestage.dev/duration": "10h"}
        parse(with_it)


KEYS = st.one_of(
    st.sampled_from([f"prestage.dev/{setting.name}" for setting in SETTINGS]),
    st.text(max_size=20).map("model.prestage.dev/".__add__),
    st.text(max_size=20).map("prestage.dev/".__add__),
    st.text(max_size=30),
)
VALUES = st.one_of(
    st.text(max_size=60),
    st.sampled_from([setting.example for setting in SETTINGS]),
    st.text(alphabet="0123456789 */,-?smhKMGi.refhf:/@", max_size=40),
)


@given(st.dictionaries(KEYS, VALUES, max_size=8))
def test_whatever_is_written_is_read_or_answered(annotations: dict[str, str]) -> None:
    try:
        request = parse(annotations)
    except Mistakes as exc:
        assert exc.mistakes
        assert all(one.wrong and one.example for one in exc.mistakes)
    else:
        assert bool(request.models) == any(key.startswith("model.prestage.dev/") for key in annotations)
        assert request.mount_path.startswith("/")
        assert ".." not in request.mount_path.split("/")
