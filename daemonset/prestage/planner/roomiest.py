"""Nodes that take more, those with most room first: kept in order while room is promised, for each demand asks for the first few.

To sort all of them for each of a thousand demands took most of a plan.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Container, Iterable, Iterator
from typing import Final

_FEW: Final = 8
"""Where there are so many times more nodes than are asked for, these are sorted by themselves."""


class Roomiest:
    """Of one plan."""

    def __init__(self, names: Iterable[str], free_bytes: Callable[[str], float], touched: set[str]) -> None:
        """`names`: of the nodes that take more; `free_bytes`: of one of them, now. `touched`: who changes what is free on a node
        adds its name."""
        self._names, self._free_bytes, self._touched = frozenset(names), free_bytes, touched
        self._places = dict[str, tuple[float, str]]()
        self._order = list[tuple[float, str]]()

    def first(self, among: Collection[str], without: Container[str]) -> Iterator[str]:
        """Those of `among`, in the order of this moment: what is promised while they are asked for changes nothing of it."""
        if len(among) * _FEW < len(self._names):
            found = [name for name in among if name in self._names and name not in without]
            yield from (name for _, name in sorted((-self._free_bytes(name), name) for name in found))
            return
        self._settle()
        for _, name in tuple(self._order):
            if name in among and name not in without:
                yield name

    def _settle(self) -> None:
        touched = self._touched & self._names
        self._touched.clear()
        if not self._places or len(touched) * 2 > len(self._names):
            self._places = {name: (-self._free_bytes(name), name) for name in self._names}
            self._order = sorted(self._places.values())
            return
        for name in touched:
            del self._order[bisect_left(self._order, self._places[name])]
            place = self._places[name] = -self._free_bytes(name), name
            insort(self._order, place)
