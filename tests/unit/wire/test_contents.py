"""Content that came in an answer is read like a local file."""

from __future__ import annotations

from pathlib import Path

import msgspec

from prestage.api.brokerage import Fetch
from prestage.cacher.manifest import FileEntry, manifest_of
from prestage.cacher.net.client import HttpClient
from prestage.cacher.net.ports import HttpRequest, ResponseHead
from prestage.cacher.origins.ports import FileRead, Selection, Verdict
from prestage.cacher.origins.source import OriginSource
from prestage.wire.contents import as_request

CONTENT = b'{"model_type": "tiny"}'


class Given:
    """An origin whose one file came by the broker."""

    def __init__(self, fetch: Fetch, folder: Path) -> None:
        self._fetch, self._folder = fetch, folder

    def resolve(self, selection: Selection) -> object:
        raise NotImplementedError

    def request(self, manifest: object, file: FileEntry) -> HttpRequest | FileRead:
        return as_request(self._fetch, self._folder)

    def judge(self, file: FileEntry, head: ResponseHead, body: bytes) -> Verdict:
        raise NotImplementedError

    def refresh(self, file: FileEntry) -> None:
        raise NotImplementedError


def test_content_is_read_by_ranges_as_the_engine_does(tmp_path: Path) -> None:
    fetch = msgspec.json.decode(msgspec.json.encode(Fetch(path="config.json", url="", body=CONTENT)), type=Fetch)
    file = FileEntry("config.json", len(CONTENT))
    manifest = manifest_of("hf:https://h/o/n", "", [file])
    client = HttpClient()
    for start, stop in ((0, len(CONTENT)), (5, 9)):
        source = OriginSource(Given(fetch, tmp_path), client, manifest, file, "lane")  # type: ignore[arg-type]
        stream = source.open(start, stop)
        buffer = memoryview(bytearray(stop - start))
        assert stream.readinto(buffer) == stop - start
        assert bytes(buffer) == CONTENT[start:stop]
        stream.close()
    client.close()
    [written] = tmp_path.iterdir()
    assert written.stat().st_mode & 0o777 == 0o600


def test_a_url_stays_a_request_and_empty_content_is_content(tmp_path: Path) -> None:
    made = as_request(Fetch(path="a", url="https://h/a", headers={"If-Match": '"x"'}), tmp_path)
    assert made == HttpRequest("https://h/a", {"If-Match": '"x"'})
    empty = as_request(Fetch(path="a", url="", body=b""), tmp_path)
    assert isinstance(empty, FileRead)
    assert empty.size_bytes == 0
