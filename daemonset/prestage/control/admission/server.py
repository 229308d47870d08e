"""The webhook: AdmissionReview v1 over TLS. What is not refused passes, whatever happens in here."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from aiohttp import web

from prestage.control.admission.judgement import Answer, Judge
from prestage.control.admission.metrics import AdmissionMetrics
from prestage.control.admission.review import Question, Unreadable, asked, passed

_log = logging.getLogger("prestage")
_BODY_BYTES_MAX = 8 * 2**20
"""An object of etcd's 1.5 MiB twice, and the request around it."""


class Webhook:
    """`app` serves it. Holds nothing of a request. `is_leaving`: each answer is the last one of its connection."""

    def __init__(self, judge: Judge, metrics: AdmissionMetrics, is_leaving: Callable[[], bool] = lambda: False) -> None:
        self._judge, self._metrics, self._is_leaving = judge, metrics, is_leaving
        self.app = web.Application(client_max_size=_BODY_BYTES_MAX)
        self.app.router.add_post("/mutate", self._mutate)
        self.app.router.add_post("/validate", self._validate)

    async def _mutate(self, request: web.Request) -> web.Response:
        return self._answered("mutate", await request.read(), self._judge.pod)

    async def _validate(self, request: web.Request) -> web.Response:
        return self._answered("validate", await request.read(), self._judge.workload)

    def _answered(self, path: str, raw: bytes, judged: Callable[[Question], Answer]) -> web.Response:
        began_s = time.perf_counter()
        try:
            question = asked(raw)
        except Unreadable as exc:
            self._metrics.answered(path, "unreadable", time.perf_counter() - began_s)
            return web.Response(status=400, text=str(exc))
        try:
            answer = judged(question)
        except Exception:  # noqa: BLE001  the edge: a fault of ours must not keep a pod from being made
            _log.exception("review_failed", extra={"fields": {"namespace": question.namespace, "kind": question.kind}})
            answer = Answer(passed(question.uid), "failed")
        self._metrics.answered(path, answer.kind, time.perf_counter() - began_s, answer.verdict)
        response = web.Response(body=answer.body, content_type="application/json")
        if self._is_leaving():
            response.force_close()
        return response
