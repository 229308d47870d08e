"""One opened file: its checked header, and the promise that bytes are verified before a tensor is made of them.

Composes mapping, sums, checks and header; knows no framework. Order: sums and size, the chunk with the length, the chunks of the
header, parse; so a damaged header is called corrupt, not invalid, wherever there are sums.
"""

from __future__ import annotations

from prestage.loader import header, sums
from prestage.loader.errors import Unsupported
from prestage.loader.mapped import MappedFile
from prestage.loader.memory.budget import default_host_bytes
from prestage.loader.report import FileReport, Outcome, publish, say_unverified
from prestage.loader.sweep import sweep, windows
from prestage.loader.verify import Checker

_POPULATE_ALIGN = 1 << 20


class OpenedFile:
    """A mapped safetensors file. Thread-safe."""

    def __init__(self, path: str, verify: str) -> None:
        """Map, check and parse the header.

        Raises:
            OSError, InvalidFile, CorruptFile, VerifyUnavailable, Unsupported (an unknown `verify`).
        """
        if verify not in sums.VERIFY_MODES:
            raise Unsupported(f"verify {verify!r} is invalid (expected one of: {', '.join(sums.VERIFY_MODES)})")
        self.mapped = MappedFile(path)
        found = None if verify == "off" else sums.find(path)
        if found is None and verify == "require":
            raise sums.no_sums(path)
        self._artifact = found.artifact if found else None
        self._outcome = Outcome.OFF if verify == "off" else Outcome.VERIFIED if found else Outcome.UNVERIFIED
        if self._outcome is Outcome.UNVERIFIED:
            say_unverified(path)
        self._checker = Checker(self.mapped, found) if found else None
        self.header = self._read_header()
        self._publish()

    def require(self, start: int, stop: int) -> None:
        """Return when the bytes [start, stop) of the file may be shown to the caller. Raises: CorruptFile, OSError."""
        if self._checker:
            self._checker.require(start, stop)
        self._publish()

    def require_all(self) -> None:
        """As `require`, for the whole file; reads what is cold also where nothing is verified. Raises: CorruptFile, OSError."""
        size = self.mapped.size_bytes
        if self._checker is None:
            # what is hot is left to the faults of who touches it: mapping 2 GB ahead costs 9 ms and saves them 4 (measured)
            cold = [window for window in windows(0, size, _POPULATE_ALIGN) if not self.mapped.is_resident(window[0])]
            if cold and size <= default_host_bytes():
                sweep(cold, self.mapped.touch)
        self.require(0, size)

    def _read_header(self) -> header.Header:
        size = self.mapped.size_bytes
        if self._checker:
            self._checker.require(0, min(header.PREFIX_BYTES, size))
        end = header.header_end(bytes(self.mapped.view[: header.PREFIX_BYTES]), size)
        if self._checker:
            self._checker.require(0, end)
        return header.parse(bytes(self.mapped.view[header.PREFIX_BYTES : end]), size)

    def _publish(self) -> None:
        checked = self._checker.checked_bytes if self._checker else 0
        publish(FileReport(self.mapped.path, self.mapped.size_bytes, self._outcome, checked, self._artifact))
