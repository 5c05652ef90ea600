"""Every generated tree is decoded equal; damaged bytes raise DecodeError and nothing else."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import orjson
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from redflare_broker.errors import DecodeError
from redflare_broker.wire.codec import decode, encode, plan
from redflare_broker.wire.task_entry import Entry

DTYPES = st.one_of(
    arrays_of.boolean_dtypes(),
    arrays_of.integer_dtypes(endianness="?"),
    arrays_of.unsigned_integer_dtypes(endianness="?"),
    arrays_of.floating_dtypes(endianness="?"),
    arrays_of.complex_number_dtypes(endianness="?"),
    st.sampled_from([np.dtype(ml_dtypes.bfloat16), np.dtype(ml_dtypes.float8_e4m3fn), np.dtype(ml_dtypes.int4)]),
)


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    """Arrays of every dtype, byte order, shape and stride, with random bits as values."""
    shape = draw(arrays_of.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    dtype = draw(DTYPES)
    raw = draw(st.binary(min_size=1, max_size=64))
    size = math.prod(shape) * dtype.itemsize
    bits = (raw * (size // len(raw) + 1))[:size]
    if (legal := {"bool": 1, "int4": 7}.get(dtype.name)) is not None:  # other bits are no value of these
        bits = bytes(byte & legal for byte in bits)
    array = np.frombuffer(bits, dtype).reshape(shape) if size else np.empty(shape, dtype)
    array = array.transpose(draw(st.permutations(range(array.ndim))))
    steps = [slice(None, None, draw(st.sampled_from([1, -1, 2]))) for _ in range(array.ndim)]
    return array[tuple(steps)] if steps else array


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
KEYS = st.one_of(TEXT, st.sampled_from(["$", "$$", "$nd", "$$nd", "$bytes", "$tuple", "$float", "$torch"]))
SCALARS = arrays().map(lambda array: array.reshape(-1)[0] if array.size else np.float32(1))
LEAVES = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), TEXT, st.binary(max_size=50), arrays(), SCALARS),
    st.integers(-(10**30), 10**30),
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(KEYS, inner, max_size=4),
    ),
    max_leaves=12,
)
METAS = st.dictionaries(KEYS, TREES, max_size=3)


def assert_same(actual: Any, expected: Any) -> None:
    assert type(actual) is type(expected)
    if isinstance(expected, np.ndarray | np.generic):
        assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
        assert actual.tobytes() == expected.tobytes()
    elif isinstance(expected, dict):
        assert list(actual) == list(expected)
        for key, value in expected.items():
            assert_same(actual[key], value)
    elif isinstance(expected, list | tuple):
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            assert_same(one, other)
    else:
        assert repr(actual) == repr(expected)


@settings(max_examples=150, deadline=None)
@given(meta=METAS, data=TREES)
def test_every_tree_is_decoded_as_it_was_encoded(meta: dict[str, Any], data: Any) -> None:
    encoded = encode(meta, data)
    assert encoded.nbytes == len(encoded.meta) + len(encoded.data) + sum(view.nbytes for view in encoded.buffers)
    planned = plan(encoded.meta, encoded.data, [view.nbytes for view in encoded.buffers])
    for target, view in zip(planned.targets, encoded.buffers, strict=True):
        assert (target.nbytes, target.format, target.ndim) == (view.nbytes, "B", 1)
        target[:] = view
    back_meta, back_data = planned.finish()
    assert_same(back_meta, meta)
    assert_same(back_data, data)


@settings(max_examples=100, deadline=None)
@given(data=TREES)
def test_what_is_read_can_be_sent_again_in_the_same_bytes(data: Any) -> None:
    first = encode({}, data)
    _, back = decode(first.meta, first.data, first.buffers)
    second = encode({}, back)
    assert (second.data, list(map(bytes, second.buffers))) == (first.data, list(map(bytes, first.buffers)))


@settings(max_examples=150, deadline=None)
@given(data=TREES, changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_json_is_a_decode_error_or_another_good_message(data: Any, changes: list[tuple[int, int]]) -> None:
    encoded = encode({"round": 1}, data)
    text = bytearray(encoded.data)
    for position, byte in changes:
        text[position % len(text)] = byte
    try:
        decode(encoded.meta, bytes(text), encoded.buffers)
    except DecodeError as error:
        assert str(error)  # noqa: PT017 - both ends are legal, any other exception is not


MARKS = st.sampled_from(["$nd", "$torch", "$bytes", "$np", "$float", "$int", "$tuple", "$$x", "$x", "a"])
JUNK = st.one_of(
    *(st.none(), st.booleans(), st.integers(-2, 2**64 - 1), st.floats(allow_nan=False, allow_infinity=False)),
    st.sampled_from([*"0123", "float32", ">int16", "int4", "bfloat16", "longdouble_m63", "nan", "complex64", "object"]),
)


@settings(max_examples=300, deadline=None)
@given(
    tree=st.recursive(
        JUNK, lambda x: st.one_of(st.lists(x, max_size=3), st.dictionaries(MARKS, x, max_size=2)), max_leaves=10
    ),
    buffers=st.lists(st.binary(max_size=16), max_size=3),
)
@example(tree={"$nd": [0, "int8", [0, 2**63]]}, buffers=[b""])
@example(tree={"$np": ["bool", 2]}, buffers=[])
def test_junk_with_marks_in_it_is_a_decode_error_or_a_value(tree: Any, buffers: list[bytes]) -> None:
    try:
        _, value = decode(b"{}", orjson.dumps(tree), buffers)
    except DecodeError:
        return
    again = encode({}, value)
    assert sum(view.nbytes for view in again.buffers) <= sum(map(len, buffers))


@settings(max_examples=150, deadline=None)
@given(text=st.binary(max_size=60), sizes=st.lists(st.integers(-1, 2**70), max_size=3))
def test_random_bytes_are_a_decode_error_or_json(text: bytes, sizes: list[int]) -> None:
    for meta, data in ((b"{}", text), (text, b"{}")):
        try:
            planned = plan(meta, data, sizes)
        except DecodeError:
            continue
        assert orjson.loads(text) is not planned


GOOD = [
    *(b"v", b"1", b"topic", b"get_task", b"task_id", b"t", b"task_name", b"n", b"rc", b"", b"epoch", b"1"),
    *(b"session", b"s", b"sender", b"x", b"meta", b"{}", b"data", b"{}"),
    *(b"blobs", b'{"prefix":"p:x","chunk":4,"sizes":[3]}'),
]


@settings(max_examples=150, deadline=None)
@given(
    at=st.integers(0, len(GOOD) - 1),
    value=st.one_of(st.binary(max_size=30), st.sampled_from([*GOOD, b'{"prefix":1}', b"[]", b"b0", b"9" * 5000])),
    drop=st.booleans(),
)
def test_a_damaged_entry_is_a_decode_error_or_a_good_entry(at: int, value: bytes, drop: bool) -> None:
    flat = GOOD[:at] + ([] if drop else [value]) + GOOD[at + 1 :]
    try:
        entry = Entry.parse("key", "1-0", flat, ("p:",))
    except DecodeError as error:
        assert str(error).startswith("key entry 1-0: ")  # noqa: PT017 - a good entry is as legal an end
    else:
        assert entry.blob is None or entry.blob.prefix.startswith("p:")


@settings(max_examples=200, deadline=None)
@given(flat=st.lists(st.binary(max_size=20), max_size=12))
def test_foreign_fields_are_a_decode_error(flat: list[bytes]) -> None:
    try:
        Entry.parse("key", "1-0", flat)
    except DecodeError as error:
        assert str(error).startswith("key entry 1-0: ")  # noqa: PT017 - any other exception fails the test
    else:
        raise AssertionError("fields of twenty random bytes made an entry")
