"""What a publish goes on with: the parts of an unfinished upload that are parts of this file, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import io
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prestage.cacher.errors import Busy
from prestage.cacher.publishing import contents as reading
from prestage.cacher.publishing.contents import Contents, open_slice, part_bytes, read_contents
from prestage.cacher.publishing.going_on import PartThere, Unfinished, choose
from prestage.cacher.transfer.checksums import algorithm
from prestage.cacher.transfer.ports import Cancelled

DATA = bytes(range(256)) * 10
PART = 1000
OURS = "CRC64NVME FULL_OBJECT"


def crc(data: bytes) -> str:
    return base64.b64encode(algorithm("crc64nvme").update(data, 0).to_bytes(8, "big")).decode()


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PART_BYTES", PART)


def written(folder: Path, data: bytes) -> Contents:
    (folder / "f").write_bytes(data)
    return read_contents(folder / "f", len(data))


@pytest.mark.parametrize("data", [b"", b"x", DATA[:PART], DATA[: PART + 1], DATA], ids=len)
def test_one_reading_gives_every_digest(data: bytes, tmp_path: Path) -> None:
    found = written(tmp_path, data)
    assert (found.sha256, found.checksum) == (hashlib.sha256(data).hexdigest(), crc(data))
    assert len(found.parts) == max(1, -(-len(data) // PART))
    for number, part in enumerate(found.parts, 1):
        assert part.number == number
        assert part.checksum == crc(data[part.start : part.start + part.size_bytes])
    assert sum(part.size_bytes for part in found.parts) == len(data)


def test_the_largest_object_of_s3_is_cut_into_as_many_parts_as_it_allows() -> None:
    largest = 5 << 40
    assert -(-largest // part_bytes(largest)) <= 10_000
    assert part_bytes(PART * 9000) == PART


def test_a_file_that_is_gone_or_shorter_is_told(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(DATA)
    with pytest.raises(Busy, match="became shorter"):
        read_contents(tmp_path / "f", len(DATA) + 1)
    with pytest.raises(Busy, match="cannot be read"):
        read_contents(tmp_path / "none", 1)


def test_whoever_leaves_does_not_wait_for_the_end_of_a_large_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(DATA)
    leaving = threading.Event()
    leaving.set()
    with pytest.raises(Cancelled):
        read_contents(tmp_path / "f", len(DATA), leaving)


def test_a_slice_counts_what_is_sent_not_what_is_signed_and_takes_back_what_goes_again(tmp_path: Path) -> None:
    found, counted = written(tmp_path, DATA), list[int]()
    with open_slice(tmp_path / "f", found.parts[1], counted.append) as body:
        assert body.read() == DATA[PART : 2 * PART]
        assert (body.seek(0, io.SEEK_END), body.seek(0)) == (PART, 0)
        assert counted == []
        body.is_sending = True
        assert body.read(300) == DATA[PART : PART + 300]
        body.seek(0)
        assert body.read() == DATA[PART : 2 * PART]
        assert body.read(1) == b""
    assert sum(counted) == PART
    assert min(counted) == -300


def test_of_a_file_that_became_shorter_as_much_is_sent_as_was_announced(tmp_path: Path) -> None:
    """The server refuses it by its checksum, instead of waiting for the rest."""
    found = written(tmp_path, DATA)
    with open_slice(tmp_path / "f", found.parts[0], lambda _: None) as body:
        (tmp_path / "f").write_bytes(DATA[:10])
        sent = body.read(10) + body.read()
    assert len(sent) == PART
    assert crc(sent) != found.parts[0].checksum


def there(contents: Contents, *numbers: int) -> dict[int, PartThere]:
    return {
        part.number: PartThere(part.size_bytes, part.checksum, f"etag-{part.number}")
        for part in contents.parts
        if part.number in numbers
    }


def test_the_parts_of_this_file_are_gone_on_with(tmp_path: Path) -> None:
    found = written(tmp_path, DATA)
    choice = choose(found, [Unfinished("u", OURS, there(found, 1, 3))])
    assert (choice.upload, set(choice.have), choice.stale) == ("u", {1, 3}, ())


STALE: dict[str, Callable[[dict[int, PartThere]], dict[int, PartThere]]] = {
    "no parts": lambda parts: {},
    "another part": lambda parts: {**parts, 2: replace(parts[2], checksum=crc(b"other"))},
    "another size": lambda parts: {**parts, 2: replace(parts[2], size_bytes=1)},
    "a part too many": lambda parts: {**parts, 9: parts[2]},
    "a part that nothing proves": lambda parts: {**parts, 2: replace(parts[2], checksum=None)},
}


@pytest.mark.parametrize("name", STALE)
def test_what_was_begun_for_other_bytes_is_stale(name: str, tmp_path: Path) -> None:
    found = written(tmp_path, DATA)
    choice = choose(found, [Unfinished("u", OURS, STALE[name](there(found, 1, 2)))])
    assert (choice.upload, dict(choice.have), choice.stale) == (None, {}, ("u",))


@pytest.mark.parametrize("checksum", ["", "CRC32 FULL_OBJECT", "CRC64NVME COMPOSITE"])
def test_what_was_begun_with_another_checksum_is_stale(checksum: str, tmp_path: Path) -> None:
    found = written(tmp_path, DATA)
    assert choose(found, [Unfinished("u", checksum, there(found, 1))]).stale == ("u",)


@given(st.lists(st.tuples(st.sets(st.integers(1, 4)), st.booleans()), max_size=6))
def test_whatever_is_found_only_parts_of_this_file_are_kept_and_all_else_is_stale(begun: list[tuple[set[int], bool]]) -> None:
    parts = tuple(
        reading.Part(number, at, len(DATA[at : at + PART]), crc(DATA[at : at + PART]))
        for number, at in enumerate(range(0, len(DATA), PART), 1)
    )
    found = Contents(len(DATA), hashlib.sha256(DATA).hexdigest(), crc(DATA), parts)
    uploads = []
    for index, (numbers, is_ours) in enumerate(begun):
        have = there(found, *numbers)
        wrong = {number: replace(part, checksum=crc(b"wrong")) for number, part in have.items()}
        uploads.append(Unfinished(str(index), OURS, have if is_ours else wrong))
    choice = choose(found, uploads)
    assert {*choice.stale, choice.upload} - {None} == {upload.id for upload in uploads}
    assert choice.have.items() <= there(found, 1, 2, 3, 4).items()
    best = max((sum(part.size_bytes for part in there(found, *numbers).values()) for numbers, ours in begun if ours), default=0)
    assert sum(part.size_bytes for part in choice.have.values()) == best
    assert (choice.upload is None) == (best == 0)
