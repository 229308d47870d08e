"""The adapter: `Api` over the `kubernetes` package, which reads kubeconfigs, refreshes tokens and speaks TLS; requests are ours.

The package's typed calls are not used: they parse every object into models of theirs, and know nothing of ours. What is sent
again and for how long is said in ports.py and decided by answers.py.
"""

from __future__ import annotations

import asyncio
import os
import random
import ssl
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, cast

import aiohttp
import yaml
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey

from prestage.kube.answers import UNTOUCHED, Answer, Backoff, Lines, asked_s, error_of, object_of, watch_event
from prestage.kube.errors import NoCluster, Unreachable
from prestage.kube.ports import (
    EVERYTHING,
    Object,
    Page,
    PatchType,
    Resource,
    ResourceVersion,
    Selection,
    WatchEvent,
    name_of,
    namespace_of,
)
from prestage.kube.settings import KubeSettings

_JSON = "application/json"
_APPLY = "application/apply-patch+yaml"
_ANSWER_BYTES_MAX = 512 * 2**20
_DEFAULT_NAMESPACE = "default"
_NETWORK = (aiohttp.ClientError, ConnectionError, ssl.SSLError, TimeoutError)


class _Configuration(Protocol):
    """The part of kubernetes.aio.client.Configuration that is used."""

    host: str
    connection_pool_maxsize: int

    async def auth_settings(self) -> Mapping[str, Mapping[str, str]]: ...


class _Response(Protocol):
    response: aiohttp.ClientResponse


class _Rest(Protocol):
    """kubernetes.aio.client.rest.RESTClientObject."""

    async def request(
        self, method: str, url: str, headers: dict[str, str], body: object, *, _request_timeout: aiohttp.ClientTimeout
    ) -> _Response: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _Ask:
    """One request. `safe`: sending it twice does what sending it once does."""

    method: str
    path: str
    query: dict[str, str] = field(default_factory=dict)
    body: object = None
    media: str = _JSON
    safe: bool = True
    about: str = ""
    """Plural and subresource, for counting."""

    @property
    def doing(self) -> str:
        """For messages."""
        return f"{self.method.lower()} {self.path}"


def _look_for(path: str | None) -> None:
    """The package takes a file that is not there for an empty one. Raises: NoCluster."""
    named = path or os.environ.get("KUBECONFIG") or "~/.kube/config"
    if not any(Path(one).expanduser().exists() for one in named.split(os.pathsep)):
        raise NoCluster(f"there is no kubeconfig {named!r}", hint="set KUBECONFIG, or say --kubeconfig FILE")


class KubeApi:
    """Open it with `async with await KubeApi.connect(settings)`. One for a process: connections are shared."""

    def __init__(
        self, configuration: _Configuration, rest: _Rest, settings: KubeSettings, *, namespace: str = _DEFAULT_NAMESPACE
    ) -> None:
        self._configuration, self._rest, self._settings = configuration, rest, settings
        self.namespace = namespace
        """Of the kubeconfig's context: where kubectl looks when no namespace is named."""
        self._backoff = Backoff(cap_s=5.0)
        self.requests = Counter[tuple[str, str]]()
        """Requests sent, retries included, by method and what they were about ("pods/status")."""

    @classmethod
    async def connect(cls, settings: KubeSettings) -> KubeApi:
        """Reads credentials; the first request tells whether they are good.

        Raises:
            NoCluster: no kubeconfig, or one that cannot be read.
        """
        # 2 s and 60 MB: only who talks to an API server pays
        from kubernetes.aio.client import Configuration
        from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

        configuration, namespace = Configuration(), None
        try:
            if settings.in_cluster:
                load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]  # theirs
            else:
                path = None if settings.kubeconfig is None else str(settings.kubeconfig)
                _look_for(path)
                loader = await load_kube_config(path, settings.context, configuration, persist_config=False)  # type: ignore[no-untyped-call]  # theirs
                namespace = loader.current_context["context"].get("namespace")
        except (ConfigException, OSError, ValueError, TypeError, LookupError, AttributeError, yaml.YAMLError) as exc:
            # the package looks into what is no kubeconfig without asking first
            where = settings.kubeconfig or "the default kubeconfig"
            raise NoCluster(f"{where}: {exc}", hint="set KUBECONFIG, or say --kubeconfig FILE") from exc
        configuration.retries = None
        if settings.server:
            configuration.host = settings.server
        named = namespace if isinstance(namespace, str) and namespace else _DEFAULT_NAMESPACE
        return cls(cast(_Configuration, configuration), _rest_of(configuration), settings, namespace=named)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends every connection."""
        await self._rest.close()
        await asyncio.sleep(0)  # aborted connections go at the loop's next turn

    async def get(self, resource: Resource, name: str, *, namespace: str | None = None, subresource: str | None = None) -> Object:
        """See ports.Api."""
        return await self._object(_Ask("GET", resource.path(namespace, name, subresource), about=_about(resource, subresource)))

    async def document(self, path: str) -> Object:
        """What lies at a path that is no resource's: /version, /apis/GROUP/VERSION."""
        return await self._object(_Ask("GET", path, about="document"))

    async def page(
        self, resource: Resource, selection: Selection = EVERYTHING, *, limit: int | None = None, rest: str | None = None
    ) -> Page:
        """See ports.Api."""
        query = _selecting(selection)
        if limit is not None:
            query["limit"] = str(limit)
        if rest is not None:
            query["continue"] = rest
        listed = await self._object(_Ask("GET", resource.path(selection.namespace), query, about=resource.plural))
        head, items = listed.get("metadata"), listed.get("items")
        if not isinstance(head, dict) or not isinstance(items, list | None):
            raise Unreachable(f"list {resource.plural}: the answer is no list")
        version = ResourceVersion(str(head.get("resourceVersion", "")))
        typed = {"apiVersion": resource.group_version, "kind": resource.kind}
        return Page(tuple({**typed, **one} for one in items or ()), version, head.get("continue") or None)

    async def watch(
        self, resource: Resource, selection: Selection, since: ResourceVersion, *, lasting_s: float
    ) -> AsyncGenerator[WatchEvent, None]:
        """See ports.Api."""
        query = _selecting(selection)
        query |= {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": since,
            "timeoutSeconds": str(max(1, round(lasting_s))),
        }
        ask = _Ask("GET", resource.path(selection.namespace), query, about=resource.plural)
        settings = self._settings
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=settings.connect_s, sock_read=settings.idle_s)
        lines = Lines()
        try:
            async with self._response(ask, timeout) as response:
                if response.status != 200:
                    raise error_of(await _read(response), ask.doing)
                async for chunk in response.content.iter_any():
                    for line in lines.feed(chunk):
                        yield watch_event(line, ask.doing)
        except _NETWORK as exc:
            raise Unreachable(f"{ask.doing}: {_cause(exc)}") from exc

    async def create(
        self,
        resource: Resource,
        body: Object,
        *,
        namespace: str | None = None,
        name: str | None = None,
        subresource: str | None = None,
    ) -> Object:
        """See ports.Api."""
        path = resource.path(namespace or namespace_of(body), name, subresource)
        return await self._object(_Ask("POST", path, body=body, safe=False, about=_about(resource, subresource)))

    async def replace(self, resource: Resource, body: Object, *, subresource: str | None = None) -> Object:
        """See ports.Api."""
        path = resource.path(namespace_of(body), name_of(body), subresource)
        return await self._object(_Ask("PUT", path, body=body, safe=False, about=_about(resource, subresource)))

    async def patch(
        self,
        resource: Resource,
        name: str,
        body: Object | list[Object],
        *,
        namespace: str | None = None,
        subresource: str | None = None,
        type: PatchType = PatchType.MERGE,  # noqa: A002
    ) -> Object:
        """See ports.Api."""
        path = resource.path(namespace, name, subresource)
        return await self._object(
            _Ask("PATCH", path, body=body, media=str(type), safe=False, about=_about(resource, subresource))
        )

    async def apply(
        self, resource: Resource, body: Object, *, manager: str, force: bool = False, subresource: str | None = None
    ) -> Object:
        """See ports.Api."""
        path = resource.path(namespace_of(body), name_of(body), subresource)
        query = {"fieldManager": manager, "force": "true" if force else "false"}
        typed = {"apiVersion": resource.group_version, "kind": resource.kind, **body}
        return await self._object(_Ask("PATCH", path, query, typed, _APPLY, about=_about(resource, subresource)))

    async def delete(
        self, resource: Resource, name: str, *, namespace: str | None = None, uid: str | None = None, grace_s: int | None = None
    ) -> None:
        """See ports.Api."""
        options: dict[str, object] = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        if grace_s is not None:
            options["gracePeriodSeconds"] = grace_s
        await self._object(_Ask("DELETE", resource.path(namespace, name), body=options, about=resource.plural))

    async def _object(self, ask: _Ask) -> Object:
        return object_of(await self._answer(ask), ask.doing)

    async def _answer(self, ask: _Ask) -> Answer:
        """The first good answer within the deadline."""
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + self._settings.deadline_s
        failures = 0
        while True:
            asked = None
            try:
                answer = await self._once(ask, max(0.1, ends_s - loop.time()))
                if answer.status < 300:
                    return answer
                if ask.method == "DELETE" and answer.status == 404 and failures:
                    return Answer(200, b"{}")  # the attempt whose answer was lost did it
                error = error_of(answer, ask.doing)
                again = answer.passing if ask.safe else answer.status in UNTOUCHED
                asked = asked_s(answer)
            except _NETWORK as exc:
                error = Unreachable(f"{ask.doing}: {_cause(exc)}", hint="is the API server up?")
                error.__cause__ = exc
                again = ask.safe or isinstance(exc, aiohttp.ClientConnectorError)
            failures += 1
            delay_s = self._backoff.delay_s(failures, random.random(), asked)  # noqa: S311  jitter, no secret
            if not again or loop.time() + delay_s >= ends_s:
                raise error
            await asyncio.sleep(delay_s)

    async def _once(self, ask: _Ask, left_s: float) -> Answer:
        timeout = aiohttp.ClientTimeout(total=left_s, sock_connect=self._settings.connect_s)
        async with self._response(ask, timeout) as response:
            return await _read(response)

    @asynccontextmanager
    async def _response(self, ask: _Ask, limits: aiohttp.ClientTimeout) -> AsyncIterator[aiohttp.ClientResponse]:
        headers = {"Accept": _JSON, "Content-Type": ask.media, "User-Agent": self._settings.user_agent}
        for setting in (await self._configuration.auth_settings()).values():
            headers[setting["key"]] = setting["value"]
        url = self._configuration.host.rstrip("/") + urllib.parse.quote(ask.path)
        if ask.query:
            url += "?" + urllib.parse.urlencode(ask.query)
        self.requests[ask.method, ask.about] += 1
        wrapped = await self._rest.request(ask.method, url, headers, ask.body, _request_timeout=limits)
        response = wrapped.response
        try:
            yield response
        finally:
            if not response.content.is_eof():
                response.close()  # what is half read must not go back to the pool
            response.release()


class _Connector(aiohttp.TCPConnector):
    """What is given up is aborted: a peer that does not answer would not answer TLS's farewell either, and asyncio waits 30 s."""

    def _release(self, key: ConnectionKey, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        if should_close and isinstance(protocol.transport, asyncio.Transport):
            protocol.transport.abort()
        super()._release(key, protocol, should_close=should_close)


def _rest_of(configuration: object) -> _Rest:
    from kubernetes.aio.client.rest import RESTClientObject

    class Rest(RESTClientObject):
        def _create_connector(self) -> aiohttp.TCPConnector:
            return _Connector(limit=self.maxsize, ssl=self.ssl_context)

        def _create_pool_manager(self) -> aiohttp.ClientSession:
            session = super()._create_pool_manager()
            session._retry_connection = False  # aiohttp sends a PUT or DELETE again behind our back
            if not goes_by_proxy(cast(_Configuration, configuration).host):
                session._trust_env = False  # it looks for a proxy and a .netrc at each request, in threads
            return session

    return cast(_Rest, Rest(configuration))


def goes_by_proxy(url: str) -> bool:
    """Whether the environment names a proxy for it."""
    parts = urllib.parse.urlsplit(url)
    proxies = urllib.request.getproxies_environment()
    named = parts.scheme in proxies or "all" in proxies
    return named and not urllib.request.proxy_bypass_environment(parts.hostname or "", proxies)  # type: ignore[attr-defined]  # typeshed lacks it


def _about(resource: Resource, subresource: str | None) -> str:
    return f"{resource.plural}/{subresource}" if subresource else resource.plural


def _selecting(selection: Selection) -> dict[str, str]:
    given = {"labelSelector": selection.labels, "fieldSelector": selection.fields}
    return {name: value for name, value in given.items() if value}


async def _read(response: aiohttp.ClientResponse) -> Answer:
    stated = response.content_length
    if stated is not None and stated > _ANSWER_BYTES_MAX:
        raise Unreachable(f"an answer of {stated} bytes is more than anybody asked for")
    return Answer(response.status, await response.read(), response.headers.get("Retry-After", ""))


def _cause(exc: BaseException) -> str:
    return "no answer in time" if isinstance(exc, TimeoutError) else (str(exc) or type(exc).__name__)
