"""Headers: what is refused, and that nothing hostile costs more than an error."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loading import encode, entry

from prestage.loader import InvalidFile
from prestage.loader.dtypes import DTYPES
from prestage.loader.header import MAX_HEADER_BYTES, Header, header_end, parse


def read(content: bytes) -> Header:
    end = header_end(content[:8], len(content))
    return parse(content[8:end], len(content))


def one(dtype: str = "U8", shape: str = "[1]", offsets: str = "[0, 1]", extra: str = "") -> bytes:
    return f'{{"a": {{"dtype": "{dtype}", "shape": {shape}, "data_offsets": {offsets}{extra}}}}}'.encode()


def test_a_header_becomes_a_table_of_absolute_positions() -> None:
    content = encode(
        {"__metadata__": {"format": "pt"}, "b": entry("F32", [2, 3], 4, 28), "a": entry("BF16", [2], 0, 4)}, bytes(28)
    )
    header = read(content)
    base = len(content) - 28
    assert header.metadata == {"format": "pt"}
    assert list(header.tensors) == ["a", "b"]
    assert (header.tensors["b"].start, header.tensors["b"].stop) == (base + 4, base + 28)
    assert header.tensors["b"].shape == (2, 3)


@pytest.mark.parametrize("code", sorted(DTYPES))
def test_each_dtype_counts_its_own_bits(code: str) -> None:
    size = 8 * DTYPES[code].bits // 8
    assert read(encode({"a": entry(code, [8], 0, size)}, bytes(size))).tensors["a"].dtype.bits == DTYPES[code].bits


def test_tensors_without_bytes_may_stand_anywhere() -> None:
    header = read(encode({"a": entry("F32", [0, 2**63], 0, 0), "b": entry("U8", [1], 0, 1), "c": entry("I8", [0], 1, 1)}, b"x"))
    assert {name: info.stop - info.start for name, info in header.tensors.items()} == {"a": 0, "b": 1, "c": 0}


def test_an_empty_table_is_a_file() -> None:
    assert read(encode({})) == Header({}, None)
    assert read(encode({"__metadata__": None})) == Header({}, None)


def test_unknown_members_of_a_tensor_are_passed_over() -> None:
    assert "a" in read(encode(one(extra=', "note": [1.5, {"x": null}]'), b"x")).tensors


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "header too small"),
        (b"\x01\x00\x00", "header too small"),
        ((2**64 - 1).to_bytes(8, "little"), "header too large"),
        ((MAX_HEADER_BYTES + 1).to_bytes(8, "little"), "header too large"),
        ((3).to_bytes(8, "little") + b"{}", "invalid header length"),
        (encode(b""), "invalid JSON"),
        (encode(b"[]"), "not an object"),
        (encode(b'"a"'), "not an object"),
        (encode(b"{} x"), "invalid JSON"),
        (encode(b"\xff{}"), "invalid UTF-8"),
        (encode("\ufeff{}".encode()), "invalid JSON"),
        (encode(b'{"__metadata__": {"a": 1}}'), "not an object of strings"),
        (encode(b'{"__metadata__": []}'), "not an object of strings"),
        (encode(b'{"a": null}'), "not an object"),
        (encode(b'{"a": ["U8", [1], [0, 1]]}', b"x"), "not an object"),
        (encode(one("C128"), b"x"), "unknown dtype 'C128'"),
        (encode(one("u8"), b"x"), "unknown dtype"),
        (encode(one(shape="[1.0]"), b"x"), "not a list of sizes"),
        (encode(one(shape="[true]"), b"x"), "not a list of sizes"),
        (encode(one(shape="[-1]"), b"x"), "not a list of sizes"),
        (encode(one(shape="[-0]"), b"x"), "not a list of sizes"),
        (encode(one(shape="null"), b"x"), "not a list of sizes"),
        (encode(one(shape="[18446744073709551616, 0]"), b"x"), "not a list of sizes"),
        (encode(one(shape="[" + "9" * 5000 + "]"), b"x"), "out of range"),
        (encode(one(offsets="[0]"), b"x"), "not two offsets"),
        (encode(one(offsets="[0, 1, 1]"), b"x"), "not two offsets"),
        (encode(one(offsets="[1, 0]"), b"x"), "-1 bytes for U8"),
        (encode(one(offsets="[0, 2]"), b"xx"), "2 bytes for U8"),
        (encode(one("F4", "[1]"), b"x"), "byte boundary"),
        (encode(one(shape="[9223372036854775808, 4, 0]", offsets="[0, 0]")), "overflow"),
        (encode(one("F64", "[4611686018427387904]", "[0, 0]")), "overflow"),
        (encode(one(), b""), "ends at byte"),
        (encode(one(), b"xy"), "ends at byte"),
        (encode(one(offsets="[1, 2]"), b"xy"), "leaves a gap"),
        (encode({"a": entry("U8", [2], 0, 2), "b": entry("U8", [2], 1, 3)}, b"xyz"), "overlaps"),
        (encode({"a": entry("U8", [1], 0, 1), "b": entry("U8", [1], 0, 1)}, b"x"), "overlaps"),
        (encode(b'{"a": 1, "a": 1}'), "stands twice"),
        (encode(b'{"__metadata__": {}, "__metadata__": {}}'), "stands twice"),
        (encode(one(extra=', "dtype": "U8"'), b"x"), "stands twice"),
        (encode(one(extra=', "n": NaN'), b"x"), "NaN is not JSON"),
        (encode(one(extra=', "n": -Infinity'), b"x"), "-Infinity is not JSON"),
        (encode(one(extra=', "n": 1e999'), b"x"), "out of range"),
        (encode(one(extra=r', "n": "\ud800"'), b"x"), "surrogates"),
        (encode(rb'{"__metadata__": {"\udc00\ud800": ""}}'), "surrogates"),
        (encode(b'{"__metadata__": {"\x01": ""}}'), "control character"),
    ],
)
def test_a_header_that_lies_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(InvalidFile, match="Error while deserializing header") as caught:
        read(content)
    assert said.replace("ends at byte", "end at byte") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_surrogate_pair_is_a_character() -> None:
    assert read(encode(rb'{"__metadata__": {"k": "\ud83d\ude00"}}')).metadata == {"k": "\U0001f600"}


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'])
def test_deep_nesting_is_refused_without_recursion(opening: bytes) -> None:
    began = time.monotonic()
    with pytest.raises(InvalidFile, match="nest deeper"):
        read(encode(opening * 1_000_000))
    assert time.monotonic() - began < 5


def test_brackets_in_names_are_no_nesting() -> None:
    name = '[{"' * 200
    assert list(read(encode({name: entry("U8", [1], 0, 1)}, b"x")).tensors) == [name]


def test_nesting_ends_at_127() -> None:
    def nested(depth: int) -> bytes:
        return encode(one(extra=f', "x": {"[" * depth}{"]" * depth}'), b"x")

    assert "a" in read(nested(125)).tensors
    with pytest.raises(InvalidFile, match="nest deeper"):
        read(nested(126))


@given(st.binary(max_size=300))
def test_any_bytes_are_a_header_or_an_invalid_file(content: bytes) -> None:
    try:
        header = read(content)
    except InvalidFile:
        return
    assert all(info.stop <= len(content) for info in header.tensors.values())


@given(st.text(max_size=80))
def test_any_text_is_a_header_or_an_invalid_file(text: str) -> None:
    content = encode(text.encode("utf-8", "surrogatepass"))
    try:
        header = read(content)
    except InvalidFile:
        return
    assert header.tensors == {}
