"""A message is encoded to bytes and decoded equal."""

from __future__ import annotations

import collections
import enum
import math
import subprocess
import sys
from typing import Any, Literal

import ml_dtypes
import numpy as np
import pytest
from redflare_broker.errors import ConfigError, DecodeError
from redflare_broker.wire.codec import CodecLimits, decode, encode, meta_beside, plan

NUMERIC = [
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "longdouble", "complex64", "complex128", "clongdouble"),
]
EXTENSION = [
    *("bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e4m3b11fnuz", "float8_e5m2", "float8_e5m2fnuz"),
    *("float8_e3m4", "float8_e4m3", "float8_e8m0fnu", "float6_e2m3fn", "float6_e3m2fn", "float4_e2m1fn"),
    *("int2", "int4", "uint2", "uint4"),
]


def round_trip(data: Any, meta: dict[str, Any] | None = None) -> Any:
    encoded = encode(meta or {}, data)
    return decode(encoded.meta, encoded.data, encoded.buffers)[1]


def assert_same_array(actual: Any, expected: np.ndarray[Any, Any]) -> None:
    assert type(actual) is np.ndarray
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    assert actual.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        False,
        0,
        -1,
        2**63 - 1,
        -(2**63),
        2**64 - 1,
        2**64,
        -(2**63) - 1,
        10**4000,
        0.1,
        -0.0,
        5e-324,
        1e308,
        "",
        "text",
        "日本 \x00 😀",
        [],
        {},
        (),
        [[]],
        ((),),
        [1, [2, (3, {"a": [4]})]],
        b"",
        b"\x00\xff",
        {"a": b"x", "b": [b"y"]},
        [math.inf, -math.inf],
        [1.5, 2.5],
        ["é", "a"],
    ],
    ids=lambda value: repr(value)[:30],
)
def test_plain_values_are_decoded_equal_and_of_the_same_type(value: object) -> None:
    back = round_trip(value)
    assert back == value
    assert repr(back) == repr(value)


def test_nan_is_decoded_as_nan_and_not_as_none() -> None:
    back = round_trip({"loss": math.nan, "history": [1.0, math.nan]})
    assert math.isnan(back["loss"])
    assert math.isnan(back["history"][1])


@pytest.mark.parametrize(
    "tree",
    [
        {"$nd": [0, "float32", [3]]},
        {"$bytes": [0, 10]},
        {"$": 1, "$$": 2, "$$$nd": 3, "plain": 4},
        {"$tuple": [1, 2]},
        {"$unknown": {"$float": "nan"}},
        {"a": {"$ü": "é"}},
    ],
)
def test_a_users_key_may_start_with_a_dollar_sign(tree: dict[str, Any]) -> None:
    assert round_trip(tree) == tree
    encoded = encode(tree, None)
    assert decode(encoded.meta, encoded.data, [])[0] == tree


@pytest.mark.parametrize("name", NUMERIC)
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_numeric_dtype_keeps_values_and_byte_order(name: str, order: Literal["<", ">"]) -> None:
    array = np.arange(6).reshape(2, 3).astype(np.dtype(name).newbyteorder(order))
    assert_same_array(round_trip(array), array)


@pytest.mark.parametrize("name", EXTENSION)
def test_every_dtype_of_ml_dtypes_keeps_its_values(name: str) -> None:
    array = np.ones((2, 2), getattr(ml_dtypes, name))
    assert_same_array(round_trip(array), array)


@pytest.mark.parametrize(
    "array",
    [
        np.array(3.5),
        np.empty((0,)),
        np.empty((2, 0, 3), np.float32),
        np.empty((0, 10**12), np.int8),
        np.arange(24).reshape(2, 3, 4)[::-1, :, ::2],
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.broadcast_to(np.float32(1.5), (3, 4)),
        np.zeros((1,) * 32, np.uint8),
        np.array([np.nan, -0.0, np.inf]),
    ],
    ids=lambda array: f"{array.shape}"[:20],
)
def test_every_shape_and_memory_order_keeps_its_values(array: np.ndarray[Any, Any]) -> None:
    assert_same_array(round_trip(array), array)


@pytest.mark.parametrize(
    "scalar",
    [
        np.bool_(True),
        np.int8(-3),
        np.uint64(2**64 - 1),
        np.float16(0.1),
        np.float32(0.1),
        np.float64(0.1),
        np.float64("nan"),
        np.float32("-inf"),
        np.complex64(1 - 2j),
        np.longdouble("0.1"),
        np.clongdouble(1j),
        ml_dtypes.bfloat16(1.5),
        ml_dtypes.float8_e4m3fn(0.5),
        ml_dtypes.int4(-8),
    ],
    ids=lambda scalar: f"{type(scalar).__name__}-{scalar}",
)
def test_a_numpy_scalar_is_decoded_as_the_same_scalar(scalar: np.generic) -> None:
    back = round_trip([scalar])[0]
    assert type(back) is type(scalar)
    assert back.tobytes() == scalar.tobytes()


def test_a_numpy_scalar_is_readable_on_the_wire() -> None:
    assert encode({}, np.float64(0.25)).data == b'{"$np":["float64",0.25]}'


def test_subclasses_are_decoded_as_their_base_classes() -> None:
    class Color(str, enum.Enum):  # noqa: UP042 - the older form, as users still write it
        RED = "red"

    class Size(enum.IntEnum):
        BIG = 3

    class Celsius(float):
        pass

    point = collections.namedtuple("point", "x y")
    tree = collections.OrderedDict({Color.RED: Color.RED, "size": Size.BIG, "t": Celsius(1.5), "p": point(1, 2)})
    back = round_trip([tree, np.str_("text"), np.bytes_(b"bytes"), bytearray(b"array"), memoryview(b"view")])
    assert repr(back) == "[{'red': 'red', 'size': 3, 't': 1.5, 'p': (1, 2)}, 'text', b'bytes', b'array', b'view']"


@pytest.mark.parametrize("view", [np.arange(6, dtype=">f4").data, np.arange(6).data[::2], memoryview(b"")])
def test_a_memoryview_of_any_format_is_decoded_as_its_bytes(view: memoryview) -> None:
    assert round_trip(view) == view.tobytes()


def test_a_contiguous_array_is_not_copied_when_it_is_encoded() -> None:
    array = np.zeros((100, 100), np.float32)
    (buffer,) = encode({}, {"w": array}).buffers
    assert np.shares_memory(np.frombuffer(buffer, np.float32), array)
    assert (buffer.format, buffer.ndim, buffer.nbytes) == ("B", 1, array.nbytes)


def test_bytes_are_not_copied_when_they_are_encoded() -> None:
    payload = b"x" * 1000
    assert encode({}, payload).buffers[0].obj is payload


def test_a_planned_array_is_received_into_its_own_memory() -> None:
    encoded = encode({"round": 1}, {"w": np.arange(10, dtype=np.float32), "raw": b"abc"})
    planned = plan(encoded.meta, encoded.data, [buffer.nbytes for buffer in encoded.buffers])
    for target, buffer in zip(planned.targets, encoded.buffers, strict=True):
        assert not target.readonly
        target[:] = buffer
    meta, data = planned.finish()
    assert meta == {"round": 1}
    assert data["raw"] == b"abc"
    assert np.shares_memory(np.frombuffer(planned.targets[0], np.uint8), data["w"])
    data["w"][0] = 5
    assert data["w"].tolist() == [5, *range(1, 10)]


def test_decoded_arrays_are_writable_and_share_nothing_with_the_buffers() -> None:
    array = np.arange(4.0)
    back = round_trip(array)
    back += 1
    assert array.tolist() == [0, 1, 2, 3]


def test_buffers_of_meta_and_data_share_one_numbering() -> None:
    encoded = encode({"mask": np.array([True])}, (np.array([2]), b"z"))
    meta, data = decode(encoded.meta, encoded.data, encoded.buffers)
    assert meta["mask"].tolist() == [True]
    assert (data[0].tolist(), data[1]) == ([2], b"z")


def test_the_size_of_a_message_is_that_of_all_its_parts() -> None:
    encoded = encode({"a": 1}, {"w": np.zeros(10)})
    assert encoded.nbytes == len(encoded.meta) + len(encoded.data) + 80


def test_an_escaped_dollar_sign_in_foreign_json_is_still_a_mark() -> None:
    assert decode(b"{}", b'{"\\u0024tuple":[1]}', [])[1] == (1,)


def test_tuples_inside_tuples_keep_their_arrays_and_bytes() -> None:
    back = round_trip((1, ({"a": (b"x",)}, [(np.array([7]),)])))
    assert back[1][0] == {"a": (b"x",)}
    assert back[1][1][0][0].tolist() == [7]


@pytest.mark.parametrize("tree", [[[1.0] * 5] * 2, [["a", "b", None, True]], [list(range(5))]])
def test_lists_of_one_kind_are_decoded_equal(tree: list[Any]) -> None:
    assert round_trip(tree) == tree


def test_trees_up_to_the_depth_limit_pass_and_deeper_ones_have_a_path() -> None:
    for wrap in (lambda x: [x], lambda x: (x,), lambda x: {"k": x}):
        tree: Any = np.zeros(2)
        for _ in range(100):
            tree = wrap(tree)
        back = round_trip(tree)
        for _ in range(100):
            back = back["k"] if isinstance(back, dict) else back[0]
        assert back.tolist() == [0, 0]


@pytest.mark.parametrize("wrong", [{"max_bytes": 0}, {"max_depth": 121}, {"max_items": True}, {"chunk_bytes": 1.5}])
def test_invalid_limits_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        CodecLimits(**wrong)


def test_torch_and_ml_dtypes_are_not_imported_by_a_process_that_does_not_use_them() -> None:
    program = """
import sys, numpy
from redflare_broker.wire.codec import decode, encode
encoded = encode({"a": numpy.float32(1)}, {"w": numpy.zeros(3), "b": b"x"})
decode(encoded.meta, encoded.data, encoded.buffers)
sys.exit("torch" in sys.modules or "ml_dtypes" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_meta_is_read_without_room_for_the_data_beside_it() -> None:
    encoded = encode({"shape": (1, 2), "loss": float("inf")}, {"w": np.zeros(1000)})
    huge = encoded.data.replace(b"[1000]", b"[%d]" % (1 << 28))
    assert meta_beside(encoded.meta, huge, [8 << 28]) == {"shape": (1, 2), "loss": float("inf")}
    assert meta_beside(b'{"a":1}', b"{}", []) == {"a": 1}


def test_meta_with_buffers_of_its_own_cannot_be_read_alone() -> None:
    encoded = encode({"scale": np.ones(2)}, {"w": np.zeros(3)})
    assert meta_beside(encoded.meta, encoded.data, [16, 24]) is None


@pytest.mark.parametrize(
    ("meta", "data", "sizes", "where"),
    [
        (b"[]", b"{}", [], "meta"),
        (b"{", b"{}", [], "meta"),
        (b"{}", b"{", [], "data"),
        (b"{}", b'{"$bytes":[0,5]}', [6], "data"),
        (b"{}", b"{}", [6], "message"),
    ],
)
def test_data_that_is_passed_on_unread_is_checked_too(meta: bytes, data: bytes, sizes: list[int], where: str) -> None:
    with pytest.raises(DecodeError, match=f"^{where}"):
        meta_beside(meta, data, sizes)
