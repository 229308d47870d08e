"""What mutation.py and mistakes.py do, as CEL for the API server itself: it works while we are away. Pure text.

The policies do without state: volume, mounts and environment, and the mistakes that an expression can tell. Tests run both ways
over the same pods on a real API server and compare.
"""

from __future__ import annotations

import json
from typing import Final

from prestage.api.annotations import DRIVER, MODEL_PREFIX, PREFIX, SETTINGS, Layout, OnTimeout, WaitFor
from prestage.control.admission.mutation import HUB_DIRECTORY, LAYOUT_ATTRIBUTE, MODULES_PATH, MODULES_VOLUME, VOLUME
from prestage.control.podspec import INJECTED

ANNOTATIONS: Final = "object.metadata.?annotations.orValue({})"
_VOLUMES: Final = "object.spec.?volumes.orValue([])"


def text(value: str) -> str:
    """A CEL string."""
    return json.dumps(value)


def names(values: object) -> str:
    """A CEL list of strings."""
    assert isinstance(values, list | tuple | frozenset)
    return json.dumps(sorted(values))


def asks(annotations: str) -> str:
    """True where an annotation is ours."""
    return f"{annotations}.exists(k, k.startsWith({text(PREFIX)}) || (k.contains('.{PREFIX}')))"


IS_OURS: Final = f"{asks(ANNOTATIONS)} || {_VOLUMES}.exists(v, has(v.csi) && v.csi.driver == {text(DRIVER)})"
"""Pods that ask nothing of us never depend on us."""
NOT_MIRROR: Final = f"!('kubernetes.io/config.mirror' in {ANNOTATIONS})"


def _setting(name: str, default: str) -> str:
    return f"variables.annotations[?{text(PREFIX + name)}].orValue({text(default)})"


def _claims(container: str) -> str:
    def extended(what: str) -> str:
        return f"{container}.?resources.?{what}.orValue({{}}).exists(n, n.contains('/') && !n.contains('kubernetes.io/'))"

    claims = f"size({container}.?resources.?claims.orValue([])) > 0"
    return f"({claims} || {extended('limits')} || {extended('requests')})"


VARIABLES: Final[tuple[tuple[str, str], ...]] = (
    ("annotations", ANNOTATIONS),
    ("models", f"variables.annotations.filter(k, k.startsWith({text(MODEL_PREFIX)}))"),
    ("volumes", _VOLUMES),
    ("path", _setting("mount-path", "/models")),
    ("layout", _setting("layout", Layout.DIRECTORY)),
    ("hub", f"variables.layout == {text(Layout.HUGGING_FACE)}"),
    ("own", "object.spec.containers.map(c, c.name)"),
    ("init", "object.spec.?initContainers.orValue([]).map(c, c.name)"),
    ("named", f"{_setting('containers', '')}.split(',').map(n, n.trim()).filter(n, n != '')"),
    ("claiming", f"object.spec.containers.filter(c, {_claims('c')}).map(c, c.name)"),
    ("plain", f"variables.own.filter(n, !(n in {names(INJECTED)}))"),
    (
        "targets",
        "size(variables.named) > 0 ? variables.named : size(variables.claiming) > 0 ? variables.claiming"
        " : size(variables.plain) > 0 ? [variables.plain[0]] : [variables.own[0]]",
    ),
)
"""In order: each may use those before it."""

WANTS_VOLUME: Final = (
    f"{ANNOTATIONS}.exists(k, k.startsWith({text(MODEL_PREFIX)})) "
    f"&& {ANNOTATIONS}[?{text(PREFIX + 'wait')}].orValue('Auto') != {text(WaitFor.NONE)}"
)
NO_VOLUME_YET: Final = f"!{_VOLUMES}.exists(v, v.name == {text(VOLUME)})"


def mutation() -> str:
    """The JSON patch of MutatingAdmissionPolicy, as an expression."""
    count = "size(variables.volumes)"
    csi = (
        f"Object.spec.volumes.csi{{driver: {text(DRIVER)}, readOnly: true, "
        f"volumeAttributes: {{{text(LAYOUT_ATTRIBUTE)}: variables.layout}}}}"
    )
    attribute = f"'/spec/volumes/' + string({count}) + '/csi/volumeAttributes/' + jsonpatch.escapeKey(k)"
    steps = [
        f"(has(object.spec.volumes) ? [] : [{_add(text('/spec/volumes'), '[]')}])",
        f"[{_add(text('/spec/volumes/-'), f'Object.spec.volumes{{name: {text(VOLUME)}, csi: {csi}}}')}]",
        f"variables.models.map(k, {_add(attribute, 'variables.annotations[k]')})",
    ]
    for room, own in (("containers", "own"), ("initContainers", "init")):
        steps += _container_steps(room, own)
    empty = f"Object.spec.volumes{{name: {text(MODULES_VOLUME)}, emptyDir: Object.spec.volumes.emptyDir{{}}}}"
    steps.append(f"(variables.hub && {_modules_wanted()} ? [{_add(text('/spec/volumes/-'), empty)}] : [])")
    return " +\n".join(steps)


def _container_steps(room: str, own: str) -> list[str]:
    """Lists that are absent are made first; then each gets what it lacks."""
    all_of_room = f"object.spec.?{room}.orValue([])"
    at = f"'/spec/{room}/' + string(variables.{own}.indexOf(c.name))"
    target = "c.name in variables.targets"

    def lacking(field: str) -> str:
        make = _add(f"{at} + '/{field}'", "[]")
        return f"{all_of_room}.filter(c, {target} && !has(c.{field})).map(c, {make})"

    def mount(volume: str, path: str, more: str, condition: str) -> str:
        there = f"c.?volumeMounts.orValue([]).exists(m, m.mountPath == {path})"
        value = f"Object.spec.{room}.volumeMounts{{name: {text(volume)}, mountPath: {path}{more}}}"
        step = _add(f"{at} + '/volumeMounts/-'", value)
        return f"{all_of_room}.filter(c, {target} && {condition}!{there}).map(c, {step})"

    steps = [lacking("volumeMounts"), mount(VOLUME, "variables.path", ", readOnly: true", "")]
    steps.append(mount(MODULES_VOLUME, text(MODULES_PATH), "", f"variables.hub && !{_sets('HF_MODULES_CACHE')} && "))
    make_env = _add(f"{at} + '/env'", "[]")
    steps.append(f"{all_of_room}.filter(c, {target} && variables.hub && !has(c.env)).map(c, {make_env})")
    hub = {
        "HF_HUB_CACHE": f"variables.path + '/{HUB_DIRECTORY}'",
        "HF_HUB_OFFLINE": "'1'",
        "HF_MODULES_CACHE": text(MODULES_PATH),
    }
    for name, value in hub.items():
        entry = f"Object.spec.{room}.env{{name: {text(name)}, value: {value}}}"
        step = _add(f"{at} + '/env/-'", entry)
        steps.append(f"{all_of_room}.filter(c, {target} && variables.hub && !{_sets(name)}).map(c, {step})")
    return steps


def _sets(name: str) -> str:
    return f"c.?env.orValue([]).exists(e, e.name == {text(name)})"


def _modules_wanted() -> str:
    rooms = ("object.spec.containers", "object.spec.?initContainers.orValue([])")
    wanting = [f"{room}.exists(c, c.name in variables.targets && !{_sets('HF_MODULES_CACHE')})" for room in rooms]
    there = f"variables.volumes.exists(v, v.name == {text(MODULES_VOLUME)})"
    return f"({' || '.join(wanting)}) && !{there}"


def _add(path: str, value: str) -> str:
    return f"JSONPatch{{op: 'add', path: {path}, value: {value}}}"


def validations() -> list[dict[str, str]]:
    """Mistakes that an expression can tell: what holds, and what is said where it does not."""
    shown = {setting.name: setting.shown for setting in SETTINGS}
    known = names([PREFIX + setting.name for setting in SETTINGS])
    ours = f"(k.startsWith({text(PREFIX)}) || k.contains('.{PREFIX}'))"
    unknown = f"{ours} && !k.startsWith({text(MODEL_PREFIX)}) && !(k in {known})"
    found = [
        _rule(
            f"!variables.annotations.exists(k, {unknown})",
            f"variables.annotations.filter(k, {unknown})[0] + "
            f"': there is no such annotation; write for example {MODEL_PREFIX}llama: hf://org/name@main'",
        )
    ]
    for name, choices in (("layout", Layout), ("wait", WaitFor), ("on-timeout", OnTimeout)):
        key = text(PREFIX + name)
        said = f"': that is none of {', '.join(choices)}; write for example {shown[name]}'"
        holds = f"!({key} in variables.annotations) || variables.annotations[{key}] in {names([str(one) for one in choices])}"
        found.append(_rule(holds, f"{key} + {said}"))
    model = f"{MODEL_PREFIX}llama: hf://org/name@main"
    no_file = "!variables.models.exists(k, variables.annotations[k].startsWith('file:'))"
    found.append(_rule(no_file, f"'file:// is not served in a cluster; write for example {model}'"))
    flat = f"variables.layout != {text(Layout.FLAT)} || size(variables.models) < 2"
    found.append(_rule(flat, f"'{PREFIX}layout: Flat is one model at the mount path; write for example {shown['layout']}'"))
    there = "variables.named.all(n, n in variables.own || n in variables.init)"
    missing = "variables.named.filter(n, !(n in variables.own || n in variables.init))[0]"
    found.append(_rule(there, f"'{PREFIX}containers: there is no container ' + {missing}"))
    taken = f"variables.volumes.exists(v, v.name == {text(VOLUME)} && (!has(v.csi) || v.csi.driver != {text(DRIVER)}))"
    found.append(_rule(f"!{taken}", f"'the volume name {VOLUME} is ours, and taken by another volume: rename that one'"))
    found.append(_rule(*_paths()))
    windows = "object.spec.?nodeSelector.orValue({})[?'kubernetes.io/os'].orValue('linux') == 'windows'"
    found.append(
        _rule(f"!({windows})", "'this pod goes to Windows nodes, where nothing of ours runs; write kubernetes.io/os: \"linux\"'")
    )
    csi = f"has(v.csi) && v.csi.driver == {text(DRIVER)}"
    read_only = f"variables.volumes.all(v, !({csi}) || v.csi.?readOnly.orValue(false))"
    found.append(_rule(read_only, f"'models are mounted read-only: write csi: {{driver: {DRIVER}, readOnly: true}}'"))
    forged = "v.csi.?volumeAttributes.orValue({}).exists(k, k.startsWith('csi.storage.k8s.io/'))"
    found.append(
        _rule(f"!variables.volumes.exists(v, {csi} && {forged})", "'attributes csi.storage.k8s.io/… are only the kubelet\\'s'")
    )
    return found


def _paths() -> tuple[str, str]:
    def clear(containers: str) -> str:
        inside = "(m.mountPath == variables.path || m.mountPath.startsWith(variables.path + '/'))"
        own = f"(m.name == {text(VOLUME)} && m.mountPath == variables.path)"
        mounts = f"c.?volumeMounts.orValue([]).all(m, !{inside} || {own})"
        return f"{containers}.all(c, !(c.name in variables.targets) || {mounts})"

    holds = f"size(variables.models) == 0 || ({clear('object.spec.containers')}"
    holds += f" && {clear('object.spec.?initContainers.orValue([])')})"
    return holds, f"'{PREFIX}mount-path: ' + variables.path + ' is taken in a container; write {PREFIX}mount-path: /srv/models'"


def _rule(expression: str, message: str) -> dict[str, str]:
    return {"expression": expression, "messageExpression": message}
