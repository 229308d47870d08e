"""The same files through the safetensors library and through ours: both accept or both refuse, and what is accepted is equal.

Where ours is stricter (STRICTER): the library keeps the last of two equal keys, so that two readers may see two files in one, and
its parser takes a struct written as an array, and an enum written as an object, which no writer produces.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loading import encode, entry

from prestage.loader import InvalidFile, SafetensorError, safe_open
from prestage.loader.dtypes import DTYPES
from prestage.loader.numpy import load_file

safetensors = pytest.importorskip("safetensors", reason="the safetensors library is the oracle of this test")
library_numpy = pytest.importorskip("safetensors.numpy")

STRICTER = re.compile(r"stands twice|is not an object|unknown dtype \{|unknown dtype \[")
NUMPY_CODES = sorted(code for code, dtype in DTYPES.items() if dtype.numpy and not dtype.numpy.startswith(("bfloat", "float8")))


@st.composite
def headers(draw: st.DrawFn) -> tuple[dict[str, object], int]:
    """A valid header and the size of its data."""
    header: dict[str, object] = {}
    if draw(st.booleans()):
        header["__metadata__"] = draw(st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=2))
    offset = 0
    for name in draw(st.lists(st.text(max_size=5).filter(lambda name: name != "__metadata__"), max_size=4, unique=True)):
        dtype = DTYPES[draw(st.sampled_from(sorted(DTYPES)))]
        shape = draw(st.lists(st.integers(0, 4), max_size=3))
        if dtype.bits < 8:
            shape.append(8)
        size = int(np.prod(shape)) * dtype.bits // 8
        header[name] = entry(dtype.code, shape, offset, offset + size)
        offset += size
    return header, offset


NUMBERS = st.sampled_from(
    ["0", "1", "-1", "-0", "2", "7", "1.0", "1e2", "1E400", "4294967296", "9223372036854775808", "18446744073709551615",
     "18446744073709551616", "null", "true", "[]", "{}", '"1"', "NaN", "Infinity", "00", "1_0"]
)  # fmt: skip
SNIPPETS = st.sampled_from(
    ["{", "}", "[", "]", ",", ":", '"', "\\", " ", "\n", "\t", "\x00", "\x7f", "\\u0000", "\\ud800", "\\ud83d\\ude00", "é",
     '"dtype":"U8",', '"shape":[],', '"data_offsets":[0,0],', '"x":[[[{}]]],', '"x":1.5,', '"__metadata__":{},',
     '"__metadata__":null,',
     '"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},', '"a":["U8",[0],[0,0]],', '"F32"', '{"F32":null}', "//", "'"]
)  # fmt: skip


def with_number(text: str, draw: st.DrawFn) -> str:
    found = list(re.finditer(r"\d+", text))
    if not found:
        return text
    where = draw(st.sampled_from(found))
    return text[: where.start()] + draw(NUMBERS) + text[where.end() :]


def with_snippet(text: str, draw: st.DrawFn) -> str:
    at = draw(st.integers(0, len(text)))
    return text[:at] + draw(SNIPPETS) + text[at:]


def with_cut(text: str, draw: st.DrawFn) -> str:
    at = draw(st.integers(0, len(text)))
    return text[:at] + text[at + draw(st.integers(1, 8)) :]


MUTATIONS: list[Callable[[str, st.DrawFn], str]] = [with_number, with_snippet, with_cut]


@st.composite
def mutants(draw: st.DrawFn) -> bytes:
    """A valid file with up to three changes to its header's text, its length, its data or its bytes."""
    header, size = draw(headers())
    text = json.dumps(header, separators=draw(st.sampled_from([(",", ":"), (", ", ": ")])))
    for mutate in draw(st.lists(st.sampled_from(MUTATIONS), max_size=3)):
        text = mutate(text, draw)
    raw = text.encode("utf-8", "surrogatepass") + b" " * draw(st.integers(0, 3))
    content = bytearray(encode(raw, bytes(max(size + draw(st.sampled_from([0, 0, 0, 0, -1, 1])), 0))))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(content)


def library_says(file: Path) -> tuple[object, ...] | None:
    try:
        opened = safetensors.safe_open(file, "np")
    except safetensors.SafetensorError:
        return None
    return described(opened)


def described(opened: safe_open) -> tuple[object, ...]:
    slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 - keys() is the contract
    shapes = {name: (part.get_shape(), part.get_dtype()) for name, part in slices.items()}
    return list(slices), shapes, opened.metadata() or None


@settings(max_examples=1500)
@given(content=mutants())
def test_both_accept_or_both_refuse(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "mutant.safetensors"
    file.write_bytes(content)
    theirs = library_says(file)
    try:
        ours = described(safe_open(file, "np", verify="off"))
    except InvalidFile as exc:
        assert theirs is None or STRICTER.search(str(exc)), (content, str(exc))
        return
    assert ours == theirs, content


@given(header=headers())
def test_every_valid_file_is_accepted(tmp_path_factory: pytest.TempPathFactory, header: tuple[dict[str, object], int]) -> None:
    file = tmp_path_factory.getbasetemp() / "valid.safetensors"
    file.write_bytes(encode(header[0], bytes(header[1])))
    assert described(safe_open(file, "np")) == library_says(file)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}}', "twice"),
        (b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1,"x":2}}', "twice"),
        (b'{"__metadata__":{"k":"1","k":"2"},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', "twice"),
        (b'{"a":["U8",[1],[0,1]]}', "not an object"),
        (b'{"a":{"dtype":{"U8":null},"shape":[1],"data_offsets":[0,1]}}', "unknown dtype"),
    ],
)
def test_where_ours_is_stricter(tmp_path: Path, text: bytes, said: str) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(encode(text, b"x"))
    assert library_says(file) is not None
    with pytest.raises(InvalidFile, match=said):
        safe_open(file, "np")


@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_arrays_are_equal_in_value_shape_dtype_and_flags(tmp_path: Path, backend: str) -> None:
    file = tmp_path / "model.safetensors"
    rng = np.random.default_rng(3)
    arrays = {code: rng.integers(0, 2, (3, 4)).astype(DTYPES[code].numpy) for code in NUMPY_CODES}
    arrays |= {"scalar": np.array(2.5), "empty": np.zeros((0, 3), np.int8), "big": rng.random((300, 7))}
    library_numpy.save_file(arrays, file, metadata={"made": "here"})
    theirs, ours = library_numpy.load_file(file, backend=backend), load_file(file, backend=backend)
    assert list(ours) == list(theirs)
    for name, array in theirs.items():
        assert np.array_equal(ours[name], array)
        assert (ours[name].dtype, ours[name].shape) == (array.dtype, array.shape)
        for flag in ("C_CONTIGUOUS", "WRITEABLE", "ALIGNED"):
            assert ours[name].flags[flag] == array.flags[flag], (name, flag)


PARTS = st.integers(-6, 6) | st.builds(
    slice, st.none() | st.integers(0, 6), st.none() | st.integers(0, 6), st.sampled_from([None, 1, 2])
)


@given(shape=st.lists(st.integers(1, 5), max_size=3), index=PARTS | st.lists(PARTS, max_size=4).map(tuple) | st.just(...))
def test_a_slice_that_the_library_gives_is_the_same_here(
    tmp_path_factory: pytest.TempPathFactory, shape: list[int], index: object
) -> None:
    """Ours gives more: negative bounds, and empty slices where the library refuses. What it refuses as too far, so do we."""
    file = tmp_path_factory.getbasetemp() / "slices.safetensors"
    library_numpy.save_file({"a": np.arange(int(np.prod(shape)), dtype=np.int32).reshape(shape)}, file)
    part = safe_open(file, "np").get_slice("a")
    try:
        theirs = safetensors.safe_open(file, "np").get_slice("a")[index]
    except (safetensors.SafetensorError, OverflowError, SystemError, ValueError):  # the last three: lengths below zero
        try:
            ours = part[index]
        except SafetensorError:
            return
        assert ours.size == 0
        return
    assert np.array_equal(part[index], theirs)
    assert part[index].shape == theirs.shape


def test_what_goes_wrong_has_the_same_words(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    library_numpy.save_file({"a": np.zeros((4, 6), np.float32)}, file)
    wrongs: list[Callable[[Any], object]] = [
        lambda opened: opened(file, "foo"),
        lambda opened: opened(file, "np", device="cuda:0"),
        lambda opened: opened(file, "np", backend="x"),
        lambda opened: opened(file, "np").get_tensor("q"),
        lambda opened: opened(file, "np").get_slice("a")[1, 2, 3],
        lambda opened: opened(file, "np").get_slice("a")[[1]],
        lambda opened: opened(file, "np").get_slice("a")[None],
    ]
    for wrong in wrongs:
        with pytest.raises(safetensors.SafetensorError) as theirs:
            wrong(safetensors.safe_open)
        with pytest.raises(SafetensorError) as ours:
            wrong(safe_open)
        assert ours.value.message.split(": ")[-1] == str(theirs.value).split(": ")[-1]
