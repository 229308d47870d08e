"""Origin authorities whose stated digests are believed: bytes of theirs that lie here already are not fetched again.

Some are named when the agent starts; of others the broker says so with each manifest, for the operator marked their Origin
(`trustDigests`), and says otherwise once it is no longer marked. The store asks while threads tell: one set, replaced as a whole.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator


class Trusted(Collection[str]):
    """See the module."""

    def __init__(self, named: Collection[str] = ()) -> None:
        self._named = frozenset(named)
        self._told: frozenset[str] = frozenset()

    def tell(self, authority: str, *, is_trusted: bool) -> None:
        """What the broker says of it now."""
        self._told = self._told | {authority} if is_trusted else self._told - {authority}

    def __contains__(self, authority: object) -> bool:
        return authority in self._named or authority in self._told

    def __iter__(self) -> Iterator[str]:
        return iter(self._named | self._told)

    def __len__(self) -> int:
        return len(self._named | self._told)
