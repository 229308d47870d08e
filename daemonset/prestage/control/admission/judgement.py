"""From the API server's question to our answer, with what the mirrors know. Never waits, asks nobody.

While the mirrors are not whole a pod gets its volume, and no gate: what policies would give it without us.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from prestage.api.annotations import Mistakes, ModelRequest, Request, WaitFor
from prestage.control.admission.mistakes import examined, models_of
from prestage.control.admission.mutation import Additions, mutated
from prestage.control.admission.review import Question, passed, refused
from prestage.control.gates.decision import Decision, Verdict, decide
from prestage.control.gates.looking import Look
from prestage.control.gates.preference import has_preference
from prestage.control.gates.situation import Surroundings, surroundings
from prestage.control.gates.world import World
from prestage.control.patches import difference
from prestage.control.podspec import is_gated, is_mirror, node_of, part
from prestage.kube.ports import Object, metadata_of

_log = logging.getLogger("prestage")
ASSUMED_S = 3.0
"""How long a pod that was let through counts on the warm node where it will probably land: until it is seen bound there."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`kind`: patched, passed or refused. `verdict`: on the gate; None where there was nothing to decide."""

    body: bytes
    kind: str
    verdict: Verdict | None = None


@dataclass(slots=True)
class Judge:
    """See the module."""

    world: World
    _let_through: deque[tuple[float, str, Object]] = field(default_factory=deque)

    def pod(self, question: Question) -> Answer:
        """A pod that is being created."""
        pod = _placed_in(question.object, question.namespace)
        if is_mirror(pod) or question.operation != "CREATE":
            return Answer(passed(question.uid), "passed")
        try:
            request = examined(pod, lambda digest: self._may_name(pod, digest))
        except Mistakes as exc:
            return self._refused(question, exc)
        models = models_of(pod, request)
        additions, verdict = self._additions(pod, request, models, dry=question.dry_run) if models else (Additions(), None)
        patch = difference(question.object, mutated(question.object, request, additions))
        return Answer(passed(question.uid, patch), "patched" if patch else "passed", verdict)

    def workload(self, question: Question) -> Answer:
        """A workload: only its template's mistakes are looked for."""
        spec = part(question.object, "spec")
        template = part(spec, "jobTemplate", "spec", "template") or part(spec, "template")
        try:
            examined(_placed_in(template, question.namespace), lambda digest: self.world.has_artifact(question.namespace, digest))
        except Mistakes as exc:
            return self._refused(question, exc)
        return Answer(passed(question.uid), "passed")

    def _refused(self, question: Question, exc: Mistakes) -> Answer:
        said = {"namespace": question.namespace, "kind": question.kind, "mistakes": len(exc.mistakes)}
        _log.info("refused", extra={"fields": said})
        return Answer(refused(question.uid, str(exc)), "refused")

    def _may_name(self, pod: Object, digest: str) -> bool:
        known = self.world.known(pod, models_of(pod, Request()))
        return digest in known.artifacts.values() or self.world.has_artifact(str(metadata_of(pod).get("namespace")), digest)

    def _additions(
        self, pod: Object, request: Request, models: Sequence[ModelRequest], *, dry: bool
    ) -> tuple[Additions, Verdict | None]:
        if not self.world.whole or request.wait is WaitFor.NONE:
            return Additions(self.world.known(pod, models).artifacts), None
        if is_gated(pod) or has_preference(pod):  # we were here before: another webhook changed the pod
            return Additions(self.world.known(pod, models).artifacts), None
        seen = surroundings(pod, request, models, look=Look(self.world, self._assumed()))
        verdict = decide(seen.situation)
        gate = verdict.decision is Decision.GATE
        places = None if gate or node_of(pod) or not seen.places else seen.places
        if not gate and not dry:
            self._let(pod, seen)
        return Additions(seen.known.artifacts, gate, places), verdict

    def _let(self, pod: Object, seen: Surroundings) -> None:
        if seen.warm:
            self._let_through.append((self.world.clock(), seen.warm[0], pod))

    def _assumed(self) -> Mapping[str, list[Object]]:
        while self._let_through and self.world.clock() - self._let_through[0][0] > ASSUMED_S:
            self._let_through.popleft()
        found = dict[str, list[Object]]()
        for _, node, pod in self._let_through:
            found.setdefault(node, []).append(pod)
        return found


def _placed_in(seen: Object, namespace: str) -> Object:
    """A pod that is being created need not say its namespace."""
    return {**seen, "metadata": {**metadata_of(seen), "namespace": namespace}}
