"""Which origin stands behind a ref, built from the environment. The one place where origins read it.

HF_ENDPOINT HF_TOKEN HF_TOKEN_PATH HF_HOME                                     hf://
AWS_* (boto's chain)  AWS_ENDPOINT_URL_S3 AWS_ENDPOINT_URL AWS_REGION          s3://
PRESTAGE_S3_STYLE=path|virtual  PRESTAGE_S3_ANONYMOUS=1  PRESTAGE_S3_REQUESTER_PAYS=1  PRESTAGE_S3_CONNECT_TO=host:port
NETRC                                                                          http(s)://
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from prestage.cacher.errors import Denied
from prestage.cacher.net.ports import Client
from prestage.cacher.origins.asking import Asker
from prestage.cacher.origins.file import FileOrigin
from prestage.cacher.origins.http import HttpOrigin
from prestage.cacher.origins.huggingface import HubOrigin, endpoint_of, token_of
from prestage.cacher.origins.ports import Origin
from prestage.cacher.origins.retry import RetryRules
from prestage.cacher.origins.s3 import S3Origin
from prestage.cacher.origins.s3_addresses import S3Settings
from prestage.cacher.origins.s3_credentials import Chain
from prestage.cacher.origins.unknown import UnknownOrigin
from prestage.cacher.refs import ArtifactRef, FileRef, HfRef, HttpRef, Ref


def open_origin(
    ref: Ref,
    *,
    client: Client,
    environ: Mapping[str, str],
    rules: RetryRules | None = None,
    cancel: threading.Event | None = None,
) -> Origin:
    """The origin of `ref`; nothing is sent yet. `client` stays the caller's to close. boto's credential chain reads the
    process's own environment, whatever `environ` says. Once `cancel` is set, whatever the origin waits for ends with Cancelled.

    Raises:
        Misconfigured: a setting that cannot be used.
        NotFound, Denied: a local path that is not there or not readable; any local path, where the client's policy restricts it.
    """
    asker = Asker(client, rules or RetryRules(), cancel=cancel or threading.Event())
    if isinstance(ref, ArtifactRef):
        return UnknownOrigin(ref)
    if isinstance(ref, HfRef):
        return HubOrigin(ref, asker, endpoint_of(environ), token_of(environ))
    if isinstance(ref, HttpRef):
        return HttpOrigin(ref, asker, environ)
    if isinstance(ref, FileRef):
        if client.policy.is_restricted:
            raise Denied(f"{ref.name}: a file of the node cannot be staged from here", hint="let the node's operator stage it")
        return FileOrigin(ref)
    chain = Chain(anonymous=environ.get("PRESTAGE_S3_ANONYMOUS", "").lower() in ("1", "true", "yes"))
    profile = chain.profile()
    settings = S3Settings.from_environ(environ, endpoint=profile.endpoint, region=profile.region, style=profile.style)
    return S3Origin(ref, asker, settings, chain)
