"""Asks the broker what templates name: each question once at a time, failures again later, each for itself.

    passes by itself (Unavailable, Busy)    after 1 s, 2 s, … at most 1 min
    needs somebody                          after 10 s, 20 s, … at most 5 min
                                            with jitter, and never before the broker's own Retry-After

A namespace has at most `_EACH` questions under way, so that one with thousands of broken templates holds nobody up.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from prestage.api.brokerage import Resolved, ResolveRequest
from prestage.api.nodes import ErrorClass
from prestage.cacher.agent.logs import log
from prestage.cacher.errors import PrestageError
from prestage.control.demand.image_lines import platform_in
from prestage.control.demand.records import Known, Line, Question, known_by
from prestage.wire.broker_client import ERRORS, refusal_of

_AT_ONCE: Final = 16
_EACH: Final = 4
_PASSING: Final = frozenset({ErrorClass.UNAVAILABLE, ErrorClass.BUSY})
_DEADLINE_S: Final = 60.0
"""Of one question: a listing of a large repository takes its time."""


class Broker(Protocol):
    """The part of `BrokerClient` that is used."""

    async def resolve(self, request: ResolveRequest, *, deadline_s: float | None = None) -> Resolved: ...


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a question has no answer. Its words are for people of its namespace only."""

    question: Question
    error_class: ErrorClass
    code: str
    message: str
    hint: str | None
    attempts: int
    again_at_s: float
    """On the loop's clock."""

    @property
    def text(self) -> str:
        """What is wrong, and what to do."""
        return f"{self.message}; {self.hint}" if self.hint else self.message


def delay_s(error_class: ErrorClass, attempts: int, draw: float, asked_s: float | None = None) -> float:
    """Until a question is asked again after its `attempts`-th failure (from 1). `draw`: uniform in [0, 1)."""
    base_s, cap_s = (1.0, 60.0) if error_class in _PASSING else (10.0, 300.0)
    waiting_s: float = min(cap_s, base_s * 2.0 ** min(attempts - 1, 20)) * (0.5 + draw / 2)
    return max(waiting_s, asked_s or 0.0)


def class_of(error: PrestageError) -> ErrorClass:
    """By which the API names it."""
    return next((name for name, kind in ERRORS.items() if isinstance(error, kind)), ErrorClass.BUG)


@dataclass(slots=True)
class _State:
    question: Question
    attempts: int = 0
    due_s: float = 0.0


class Resolutions:
    """`want` says what is to be known; `run` asks. `told`: called after each answer and each failure, `asking`: before each
    question."""

    def __init__(
        self,
        broker: Broker,
        *,
        told: Callable[[], None] = lambda: None,
        asking: Callable[[], None] = lambda: None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._broker, self._told, self._asking_one, self._draw = broker, told, asking, draw
        self._wanted: dict[Line, _State] = {}
        self._asking: dict[Line, str] = {}
        self._news = asyncio.Event()
        self.answers: dict[Line, Known] = {}
        """What was answered and is not seen in an Artifact yet."""
        self.failures: dict[Line, Failure] = {}

    def want(self, questions: Iterable[Question]) -> None:
        """All that is open now: what is not among them any more is let go of."""
        fresh = {question.line: question for question in questions}
        for line in self._wanted.keys() - fresh.keys():
            del self._wanted[line]
            self.failures.pop(line, None)
        for line, question in fresh.items():
            state = self._wanted.get(line)
            if state is None or state.question != question:
                self._wanted[line] = _State(question)
        self._news.set()

    def forget_seen(self, recorded: Iterable[Line]) -> None:
        """Artifacts show them: from here on they are the truth."""
        for line in recorded:
            self.answers.pop(line, None)

    async def run(self) -> None:
        """Never returns."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            while True:
                self._news.clear()
                now_s = loop.time()
                for state in self._due(now_s):
                    self._asking[state.question.line] = state.question.namespace
                    group.create_task(self._ask(state), name="resolve")
                later = [one.due_s for line, one in self._wanted.items() if line not in self._asking and one.due_s > now_s]
                try:
                    async with asyncio.timeout_at(min(later, default=now_s + 3600)):
                        await self._news.wait()
                except TimeoutError:
                    continue

    def _due(self, now_s: float) -> list[_State]:
        busy = Counter(self._asking.values())
        found = list[_State]()
        for line, state in sorted(self._wanted.items(), key=lambda pair: (pair[1].due_s, pair[0])):
            if len(self._asking) + len(found) >= _AT_ONCE:
                break
            namespace = state.question.namespace
            if line in self._asking or line in self.answers or state.due_s > now_s or busy[namespace] >= _EACH:
                continue
            busy[namespace] += 1
            found.append(state)
        return found

    async def _ask(self, state: _State) -> None:
        question = state.question
        self._asking_one()
        try:
            answer = await self._broker.resolve(_request(question), deadline_s=_DEADLINE_S)
        except PrestageError as exc:
            self._failed(state, exc)
        else:
            if self._wanted.get(question.line) is state:
                self.answers[question.line] = known_by(answer)
                self.failures.pop(question.line, None)
        finally:
            self._asking.pop(question.line, None)
            self._news.set()
        self._told()

    def _failed(self, state: _State, error: PrestageError) -> None:
        refusal = refusal_of(error)
        kind = class_of(error)
        state.attempts += 1
        asked_s = refusal.retry_after_s if refusal is not None else None
        state.due_s = asyncio.get_running_loop().time() + delay_s(kind, state.attempts, self._draw(), asked_s)
        question = state.question
        if self._wanted.get(question.line) is state:
            code = refusal.code if refusal is not None else "BrokerUnavailable"
            self.failures[question.line] = Failure(question, kind, code, error.message, error.hint, state.attempts, state.due_s)
        fields = {"template": question.line.uid, "class": kind, "attempts": state.attempts}
        log("resolve_failed", level=logging.WARNING, fields=fields)


def _request(question: Question) -> ResolveRequest:
    return ResolveRequest(
        namespace=question.namespace,
        template=question.line.template,
        alias=question.line.alias,
        ref=question.line.ref,
        service_account=question.service_account,
        credentials=question.credentials,
        platform=platform_in(question.line),
        pull_secrets=question.pull_secrets,
    )
