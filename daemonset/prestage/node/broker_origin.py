"""The origin of an artifact as a node knows it: the broker says what it is made of and how each file is to be had, for a while.

    manifest   asked once, held against its SHA-256: that is the artifact's name
    fetches    asked for the file that is next and for those after it; kept until shortly before they expire
    requests   sent where the broker's answer lets them go: public addresses and the networks it names, by its CA where it has one
    mirrors    the broker may hand out a nearer copy; once something is wrong there the rest comes from the origin, and so does
               all of a stage that is begun again

Nothing of a fetch is ever written down or logged: it is a credential while it lives.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as StillAsking
from dataclasses import replace
from pathlib import Path
from typing import NoReturn, Protocol, TypeVar

from prestage.api.brokerage import FETCHES_MAX, Fetch, FetchesAnswer, FetchesRequest, ImageAnswer, ManifestAnswer
from prestage.cacher.digests import ArtifactId
from prestage.cacher.errors import Corrupt, Denied, PrestageError, Unavailable
from prestage.cacher.manifest import FileEntry, Manifest, parse_manifest
from prestage.cacher.net.client import HttpBody, HttpClient
from prestage.cacher.net.config import NetConfig
from prestage.cacher.net.errors import NetError
from prestage.cacher.net.policy import AddressPolicy
from prestage.cacher.net.ports import HttpRequest, Reply, ResponseHead
from prestage.cacher.origins.answers import common_verdict, said
from prestage.cacher.origins.ports import FileRead, Next, Selection, Verdict
from prestage.cacher.refs import ArtifactRef
from prestage.cacher.transfer.ports import Cancelled
from prestage.node.trust import Trusted
from prestage.wire.broker_client import refusal_of
from prestage.wire.contents import as_request

_T = TypeVar("_T")
MARGIN_S = 30.0
"""A fetch is asked for anew so long before it expires: it must reach the origin while it is good."""
REFRESH_AGAIN_S = 20.0
"""A fetch that is refused although it is no older than this is refused for good."""
MIRRORED_S = 3600.0
_CANCEL_LOOK_S = 0.2
_CONTENTS = "contents-"
NOT_YET = frozenset({"NotInPlan"})
"""Codes of refusals that pass when the plan has come."""


class Broker(Protocol):
    """What is asked: `BrokerClient`."""

    async def manifest(self, artifact: str, *, deadline_s: float | None = None) -> ManifestAnswer:
        """Canonical JSON."""
        ...

    async def fetches(self, request: FetchesRequest, *, deadline_s: float | None = None) -> FetchesAnswer:
        """In the order of the request."""
        ...


class Asking:
    """Questions of worker threads, asked on the loop of the process."""

    def __init__(self, broker: Broker, loop: asyncio.AbstractEventLoop, trusted: Trusted | None = None) -> None:
        self.broker, self._loop = broker, loop
        self.trusted = Trusted() if trusted is None else trusted
        self.codes: dict[ArtifactId, str] = {}
        """Why the broker refused last, in its own word."""
        self._mirrored: dict[ArtifactId, float] = {}

    def was_mirrored(self, artifact: ArtifactId) -> bool:
        """A stage of it was begun from a mirror a while ago: that it is begun again says that this did not do."""
        now = time.monotonic()
        self._mirrored = {one: at for one, at in self._mirrored.items() if now - at < MIRRORED_S}
        return artifact in self._mirrored

    def mirrored(self, artifact: ArtifactId) -> None:
        """It comes from a mirror."""
        self._mirrored[artifact] = time.monotonic()

    def ask(self, artifact: ArtifactId, question: Callable[[Broker], Awaitable[_T]], cancel: threading.Event) -> _T:
        """The answer.

        Raises:
            Cancelled: `cancel` was set.
            PrestageError: the broker's refusal; Unavailable where it may be answered once the plan has come.
        """

        async def asked() -> _T:
            return await question(self.broker)

        future: Future[_T] = asyncio.run_coroutine_threadsafe(asked(), self._loop)
        while True:
            try:
                answer = future.result(_CANCEL_LOOK_S)
            except StillAsking:
                if future.done():
                    raise
                if cancel.is_set():
                    future.cancel()
                    raise Cancelled from None
            except PrestageError as exc:
                self._refused(artifact, exc)
            else:
                self.codes.pop(artifact, None)
                return answer

    def _refused(self, artifact: ArtifactId, exc: PrestageError) -> NoReturn:
        refusal = refusal_of(exc)
        if refusal is None:
            raise exc
        self.codes[artifact] = refusal.code
        if refusal.code in NOT_YET:
            raise Unavailable(f"the plan does not have {artifact} on this node yet", hint="it is asked for again") from exc
        raise exc


class Senders:
    """HTTP clients, one for each policy and CA: connections are shared by all stages that may use them."""

    def __init__(self, net: NetConfig, policy: AddressPolicy, folder: Path) -> None:
        self._net, self._policy, self._folder = net, policy, folder
        self._clients: dict[tuple[tuple[str, ...], str], HttpClient] = {}
        self._lock = threading.Lock()

    def of(self, answer: FetchesAnswer | ImageAnswer | None) -> HttpClient:
        """What may send what the broker gave."""
        allowed, ca = tuple(sorted((answer.allowed_cidrs if answer else None) or ())), (answer.ca if answer else None) or ""
        with self._lock:
            if (allowed, ca) not in self._clients:
                self._clients[allowed, ca] = self._make(allowed, ca)
            return self._clients[allowed, ca]

    def _make(self, allowed: tuple[str, ...], ca: str) -> HttpClient:
        named = AddressPolicy.tenant(allow=allowed).networks
        policy = replace(self._policy, networks=(*self._policy.networks, *named))
        net = self._net
        if ca:
            bundle = self._folder / f"ca-{hashlib.sha256(ca.encode()).hexdigest()[:16]}.pem"
            bundle.write_text(ca)
            net = replace(net, ca_bundle=bundle)
        return HttpClient(net, policy)

    def contents(self) -> Path:
        """A new folder, 0700, for content that came in answers; whoever asked removes it."""
        return Path(tempfile.mkdtemp(prefix=_CONTENTS, dir=self._folder))

    def clear(self) -> None:
        """What processes left that were killed: before anything is staged."""
        for left in self._folder.glob(f"{_CONTENTS}*"):
            shutil.rmtree(left, ignore_errors=True)

    def close(self) -> None:
        """Drop what is idle."""
        with self._lock:
            for client in self._clients.values():
                client.close()


class BrokerOrigin:
    """See the module. Of one stage; thread-safe."""

    def __init__(self, ref: ArtifactRef, asking: Asking, senders: Senders, cancel: threading.Event) -> None:
        self._artifact, self._asking, self._senders, self._cancel = ref.artifact, asking, senders, cancel
        self._lock = threading.Lock()
        self._fetches: dict[str, Fetch] = {}
        self._got_at: dict[str, float] = {}
        self._answers: dict[str, FetchesAnswer] = {}
        """By URL: what lets it be sent. Of those that are good, and of all of a mirror: one may be on its way for long."""
        self._newest: FetchesAnswer | None = None
        self._wants_primary = asking.was_mirrored(ref.artifact)
        self._contents: Path | None = None
        self.client = _Sender(self._sender, self._failed, senders.of(None).policy)

    def _sender(self, url: str) -> HttpClient:
        return self._senders.of(self._answers.get(url) or self._newest)

    def _failed(self, url: str) -> bool:
        """It did not serve there. True: there is another place to ask."""
        answer = self._answers.get(url)
        if answer is None or not answer.is_mirror:
            return False
        self._leave_mirror()
        return True

    def _leave_mirror(self) -> None:
        with self._lock:
            self._wants_primary = True
            mirrored = {url for url, answer in self._answers.items() if answer.is_mirror}
            self._fetches = {path: fetch for path, fetch in self._fetches.items() if fetch.url not in mirrored}

    def _is_mirrored(self, path: str) -> bool:
        fetch = self._fetches.get(path)
        answer = self._answers.get(fetch.url) if fetch is not None else None
        return answer is not None and answer.is_mirror

    def resolve(self, selection: Selection) -> Manifest:
        """What the artifact is made of: all of it."""
        answer = self._asking.ask(self._artifact, lambda broker: broker.manifest(self._artifact), self._cancel)
        manifest = parse_manifest(answer.manifest.encode(), self._artifact)
        if manifest.artifact != self._artifact:
            raise Corrupt(f"the manifest of {self._artifact} is not canonical JSON", hint="please report it")
        if manifest.authority.startswith("file:"):
            raise Denied(f"{self._artifact} is of files of some machine: no node serves those", hint="publish it to an origin")
        self._asking.trusted.tell(manifest.authority, is_trusted=answer.trust_digests)
        return manifest

    def request(self, manifest: Manifest, file: FileEntry) -> HttpRequest | FileRead:
        """As the broker said it, while it is good; a small file that came with the answer is read from where we put it."""
        with self._lock:  # one question at a time: the next thread finds the answer
            fetch = self._fetches.get(file.path)
            if fetch is None or not _is_good(fetch, time.time()):
                fetch = self._ask(manifest, file)
            if fetch.body is None:
                return HttpRequest(fetch.url, fetch.headers)
            if self._contents is None:
                self._contents = self._senders.contents()
                weakref.finalize(self, shutil.rmtree, self._contents, ignore_errors=True)
            return as_request(fetch, self._contents)

    def _ask(self, manifest: Manifest, file: FileEntry) -> Fetch:
        now = time.time()
        paths = [file.path]
        for other in manifest.files[manifest.files.index(file) + 1 :]:
            known = self._fetches.get(other.path)
            if len(paths) < FETCHES_MAX and (known is None or not _is_good(known, now)):
                paths.append(other.path)
        request = FetchesRequest(artifact=self._artifact, paths=paths, mirrors=not self._wants_primary)
        answer = self._asking.ask(self._artifact, lambda broker: broker.fetches(request), self._cancel)
        if answer.is_mirror:
            self._asking.mirrored(self._artifact)
        for fetch in answer.fetches:
            self._answers[fetch.url] = answer
            self._fetches[fetch.path] = fetch
            self._got_at[fetch.path] = now
        good = {fetch.url for fetch in self._fetches.values()}
        self._answers = {url: said for url, said in self._answers.items() if url in good or said.is_mirror}
        self._newest = answer
        if file.path not in self._fetches:
            raise Unavailable(
                f"the broker said nothing of {file.path}", hint="do broker and node differ by more than one version?"
            )
        return self._fetches[file.path]

    def judge(self, file: FileEntry, head: ResponseHead, body: bytes) -> Verdict:
        """An answer that is not the right 206: what was given may have expired, once."""
        now = time.time()
        if (verdict := common_verdict(file.path, head, body, now)) is not None:
            return verdict
        why = f"{file.path}: the origin answered {head.status} {said(head, body)}".rstrip()
        if now - self._got_at.get(file.path, 0.0) > REFRESH_AGAIN_S and head.status in (400, 401, 403, 404, 410):
            return Verdict(Next.REFRESH, why)
        if head.status in (404, 410):
            return Verdict(Next.CHANGED, why)
        error = Denied(why, hint="the origin takes back what the broker gave: see the broker's log")
        return Verdict(Next.FATAL, why, error=error)

    def refresh(self, file: FileEntry) -> None:
        """Ask anew; not the mirror, where that is what was wrong."""
        if self._is_mirrored(file.path):
            self._leave_mirror()
        with self._lock:
            self._fetches.pop(file.path, None)


class _Sender:
    """Sends by the client of the answer that a URL came in."""

    def __init__(self, client_of: Callable[[str], HttpClient], failed: Callable[[str], bool], policy: AddressPolicy) -> None:
        self._client_of, self._failed = client_of, failed
        self.policy = policy

    def open(self, request: HttpRequest, leaving: threading.Event | None = None) -> HttpBody:
        """See net.ports.Client. What a mirror answers is judged here, by the URL: its file may have another by now."""
        try:
            body = self._client_of(request.url).open(request, leaving)
        except NetError as exc:
            if exc.reason != "aborted" and self._failed(request.url):
                raise NetError(exc.reason, exc.detail) from exc  # whatever it was, it need not be so elsewhere
            raise
        if body.head.status in (200, 206) or not self._failed(request.url):
            return body
        body.close()
        raise NetError("mirror", f"it answered {body.head.status}: the rest comes from the origin itself")

    def fetch(
        self,
        request: HttpRequest,
        *,
        limit_bytes: int = 64 << 20,
        redirects: int = 5,
        timeout_s: float = 60,
        leaving: threading.Event | None = None,
    ) -> Reply:
        """See net.ports.Client."""
        client = self._client_of(request.url)
        return client.fetch(request, limit_bytes=limit_bytes, redirects=redirects, timeout_s=timeout_s, leaving=leaving)


def _is_good(fetch: Fetch, now: float) -> bool:
    return fetch.expires_at is None or fetch.expires_at - now > MARGIN_S
