"""One look at whether credentials still read an artifact: what a node would be handed is asked for, for one of its files.

    S3               one byte of the object at its version, with the namespace's keys or role
    Hugging Face     the hub's redirect for the file, with the namespace's token
    https            its head

What an answer means is `finding_of`, which is pure. The origin has to say no, or the credential has to be gone: nothing else
counts against a namespace.
"""

from __future__ import annotations

from typing import Final

from prestage.api.nodes import ErrorClass
from prestage.cacher.errors import PrestageError
from prestage.cacher.manifest import Manifest
from prestage.cacher.origins.answers import OurFault
from prestage.cacher.origins.hub_answers import NoRepository
from prestage.cacher.origins.s3 import S3Origin
from prestage.control.access import Finding, Outcome
from prestage.control.broker.opening import Opened
from prestage.control.broker.refusals import No, refusal_for

_LIFE_S: Final = 60
_NO: Final = frozenset({"OriginRefused", "NoCredentials", "NotTheFetcher"})
"""Codes: the origin's own no, and that the namespace has nothing to show any more."""
PROVED: Final = Finding(Outcome.PROVED)


def prove(opened: Opened, manifest: Manifest) -> None:
    """Blocks.

    Raises:
        PrestageError: what the origin says.
    """
    file = next((one for one in manifest.files if one.size_bytes), manifest.files[0])
    if isinstance(opened.origin, S3Origin):
        opened.origin.presigned(manifest, file, life_s=_LIFE_S)
    else:
        opened.origin.request(manifest, file)


def finding_of(error: No | PrestageError) -> Finding:
    """What a look that failed says.

    A hub answers 404 to who may not know that a private repository is there. An object that is gone says nothing of access.
    """
    refusal = refusal_for(error)
    assert refusal is not None
    is_no = refusal.error_class is ErrorClass.DENIED and refusal.code in _NO and not isinstance(error, OurFault)
    said = f"{refusal.message}; {refusal.hint}" if refusal.hint else refusal.message
    return Finding(Outcome.REFUSED if is_no or isinstance(error, NoRepository) else Outcome.UNKNOWN, refusal.code, said)
