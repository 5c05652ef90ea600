"""Invalid data is refused with its path in the tree, before anything is written or allocated."""

from __future__ import annotations

import dataclasses
import datetime
import sys
import tracemalloc
from typing import Any

import numpy as np
import pytest
from redflare_broker.errors import DecodeError, EncodeError, MessageTooLarge
from redflare_broker.wire.codec import CodecLimits, decode, encode, plan


@dataclasses.dataclass
class Own:
    x: int = 1


CYCLE: list[Any] = []
CYCLE.append({"again": CYCLE})


class Odd(str):
    """Equal only to itself, so that a dict can hold it beside the same text."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"layers": [0, {"w": {1, 2}}]}, r"^data\.layers\[1\]\.w: a value of type builtins\.set .* accepted are dict"),
        ({"a": Own()}, r"^data\.a: .*test_codec_bad_input\.Own cannot be sent"),
        ({"a b": [datetime.date(2020, 1, 1)]}, r"^data\['a b'\]\[0\]: a value of type datetime\.date"),
        ([1j], r"^data\[0\]: a value of type builtins\.complex"),
        (({"k": {3: 4}},), r"^data\[0\]\.k: a dict key of type int \(3\) cannot be sent: use str\(3\)"),
        ({"a": 1, (1, 2): 4}, r"^data: a dict key of type tuple \(\(1, 2\)\) cannot be sent: use str keys"),
        ({"a": {"x": 1, Odd("x"): 2}}, r"^data\.a: two keys are the same text"),
        ({"a": ["ok", "\ud800"]}, r"^data\.a\[1\]: a str with a lone surrogate at 0"),
        ({"a": {"\udfff": 1}}, r"^data\.a: a str with a lone surrogate"),
        ({"a": np.array([object()])}, r"^data\.a: an array of dtype object cannot be sent"),
        (np.array(["x"]), r"^data: an array of dtype <U1"),
        (np.array([b"x"]), r"^data: an array of dtype \|S1"),
        (np.zeros(1, "M8[s]"), r"^data: an array of dtype datetime64\[s\]"),
        (np.zeros(1, "m8[s]"), r"^data: an array of dtype timedelta64\[s\]"),
        (np.zeros(1, [("a", "f4")]), r"^data: an array of dtype \[\('a', '<f4'\)\]"),
        ([np.datetime64("2020-01-01")], r"^data\[0\]: a numpy scalar of dtype datetime64"),
        (np.ma.masked_array([1, 2], [False, True]), r"^data: a MaskedArray would come back as a plain array"),
        (np.zeros((1,) * 33), r"^data: 33 dimensions are too many"),
        (np.array([object()]).data, r"^data: a memoryview of Python objects"),
        (CYCLE, r"^data\[0\]\.again\[0\].*: nested deeper than 100 levels, or a cycle"),
        (10**5000, r"^data: an int of 16610 bits cannot be sent"),
    ],
    ids=lambda value: None if isinstance(value, str) else type(value).__name__,
)
def test_a_value_that_cannot_be_sent_is_refused_with_its_path(data: object, message: str) -> None:
    with pytest.raises(EncodeError, match=message):
        encode({}, data)


def test_a_value_in_meta_is_refused_with_its_path() -> None:
    with pytest.raises(EncodeError, match=r"^meta\.a: "):
        encode({"a": object()}, {})
    with pytest.raises(EncodeError, match=r"^meta: must be a dict, but is a list"):
        encode([], {})  # type: ignore[arg-type]


def test_a_released_memoryview_is_refused() -> None:
    view = memoryview(b"x")
    view.release()
    with pytest.raises(EncodeError, match=r"^data\[0\]: the memory cannot be read"):
        encode({}, [view])


def test_deep_nesting_is_refused_on_both_sides_and_never_a_recursion_error() -> None:
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(EncodeError, match="nested deeper"):
        encode({}, deep)
    while isinstance(deep, list):
        deep = deep.pop()
    for text in (b"[" * 101 + b"]" * 101, b"[" * 500 + b"]" * 500, b"[" * 10**6, b'{"a":' * 300 + b"1" + b"}" * 300):
        with pytest.raises(DecodeError, match=r"(nested deeper|not JSON: depth limit|over max_items)"):
            decode(b"{}", text, [])


def test_a_full_stack_is_not_the_users_recursion_error() -> None:
    def descend(levels: int) -> None:
        if levels:
            descend(levels - 1)
        else:
            frame, used = sys._getframe(), 0
            while frame := frame.f_back:  # type: ignore[assignment]
                used += 1
            limit = sys.getrecursionlimit()
            sys.setrecursionlimit(used + 40)
            try:
                with pytest.raises(EncodeError, match="data: cannot be walked"):
                    encode({}, tree)
                with pytest.raises(DecodeError, match="data: cannot be held"):
                    decode(b"{}", text, [])
            finally:
                sys.setrecursionlimit(limit)

    tree: Any = ()
    for _ in range(90):
        tree = (tree,)
    text = encode({}, tree).data
    descend(10)


def test_a_million_keys_are_refused_on_both_sides() -> None:
    keys = dict.fromkeys(map(str, range(1_000_000)), 0)
    with pytest.raises(MessageTooLarge, match="1000000"):
        encode({}, keys)
    text = b"{" + b'"a key":0,' * 999_999 + b'"a key":0}'
    with pytest.raises(DecodeError, match="over max_items = 1000000"):
        decode(b"{}", text, [])


def test_commas_and_brackets_in_text_are_not_counted_as_values() -> None:
    limits = CodecLimits(max_items=10)
    data = {"csv": '1,2,3\\",[[[{{{' * 10, "next": [1, 2]}
    encoded = encode({}, data, limits)
    assert decode(encoded.meta, encoded.data, [], limits)[1] == data
    with pytest.raises(MessageTooLarge, match=r"^message: .* over max_items = 10"):
        encode({}, [np.zeros(1)] * 3, limits)


def test_a_list_that_holds_itself_many_times_over_is_refused_early() -> None:
    bomb: list[Any] = [0] * 10
    for _ in range(20):
        bomb = [bomb] * 10
    with pytest.raises(MessageTooLarge, match="more than 1000000 values"):
        encode({}, bomb)


def test_a_message_over_the_cap_is_refused_before_its_arrays_are_copied() -> None:
    wide = np.broadcast_to(np.float32(0), (1 << 30, 4))
    tracemalloc.start()
    try:
        with pytest.raises(MessageTooLarge, match=r"^data\.w: .*over max_bytes = 4294967296"):
            encode({}, {"w": wide})
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_text_counts_for_the_cap() -> None:
    limits = CodecLimits(max_bytes=100)
    with pytest.raises(MessageTooLarge, match="over max_bytes = 100"):
        encode({}, "x" * 100, limits)
    with pytest.raises(DecodeError, match="over max_bytes = 100"):
        decode(b"{}", b'"' + b"x" * 100 + b'"', [], limits)


@pytest.mark.parametrize(
    ("text", "sizes", "message"),
    [
        (b"", (), "^data: not JSON"),
        (b"\xff\xfe", (), "^data: not JSON"),
        (b"{'a': 1}", (), "^data: not JSON"),
        (b'{"a": NaN}', (), "^data: not JSON"),
        (b'"\\ud800"', (), "^data: not JSON"),
        (b'{"a":{"$what":1}}', (), r"^data\.a: unknown mark '\$what'"),
        (b'{"a":{"$float":"nan","b":1}}', (), r"^data\.a: mark '\$float' is not legal here"),
        (b'{"$float":"NaN"}', (), r"^data: \$float must be one of nan, inf, -inf"),
        (b'{"$float":[]}', (), r"^data: \$float must be one of"),
        (b'{"$int":"1_000"}', (), r"^data: \$int must be decimal digits"),
        (b'{"$int":"%s"}' % (b"9" * 5000), (), r"^data: \$int must be decimal digits"),
        (b'{"$int":12}', (), r"^data: \$int must be"),
        (b'{"$tuple":1}', (), r"^data: \$tuple needs a list"),
        (b'[{"$np":["float32",0.1]}]', (), r"^data\[0\]: \$np cannot be read: 0.1 is not a value of float32"),
        (b'{"$np":["int8",300]}', (), r"^data: \$np cannot be read"),
        (b'{"$np":["int8",1.5]}', (), r"^data: \$np cannot be read"),
        (b'{"$np":["float32",1e300]}', (), r"^data: \$np cannot be read"),
        (b'{"$np":["float32","00"]}', (), r"^data: \$np cannot be read: '00' is not the hex"),
        (b'{"$np":["float32","zzzzzzzz"]}', (), r"^data: \$np cannot be read"),
        (b'{"$np":["float32","0      0"]}', (), r"^data: \$np cannot be read"),
        (b'{"$np":["object",1]}', (), r"^data: \$np cannot be read: dtype 'object' is not known"),
        (b'{"$np":["int8",[1]]}', (), r"^data: \$np cannot be read: value \[1\] is not a number"),
        (b'{"$np":1}', (), r"^data: \$np needs \[dtype, value\]"),
        (b'{"$bytes":[0,3]}', (), r"^data: there is no buffer 0: the message has 0"),
        (b'{"$bytes":[0,3]}', (4,), r"^data: buffer 0 should have 3 bytes, but has 4"),
        (b'{"$bytes":[0,-1]}', (4,), r"^data: \$bytes needs \[index, length\]"),
        (b'{"$bytes":[0,true]}', (1,), r"^data: \$bytes needs \[index, length\]"),
        (b'{"$bytes":[true,1]}', (1, 1), r"^data: there is no buffer True"),
        (b'{"$bytes":[-1,1]}', (1,), r"^data: there is no buffer -1"),
        (b'{"$bytes":[[],1]}', (1,), r"^data: there is no buffer \[\]"),
        (b'{"$bytes":[1,1]}', (1,), r"^data: there is no buffer 1"),
        (b'[{"$bytes":[0,1]},{"$bytes":[0,1]}]', (1,), r"^data\[1\]: buffer 0 is used twice"),
        (b'{"$bytes":[1,1]}', (1, 1), r"^message: buffer 0 of 2 is not used by any value"),
        (b"{}", (1,), r"^message: buffer 0 of 1 is not used"),
        (b"{}", (-1,), r"^message: size of buffer 0 must be an int of at least 0, but is -1"),
        (b"{}", (True,), r"^message: size of buffer 0 must be"),
        (b"{}", (1 << 40,), r"^message: the message has 1099511627780 bytes, over max_bytes"),
        (b'{"$nd":[0,"float32",[3]]}', (11,), r"^data: buffer 0 should have 12 bytes, but has 11"),
        (b'{"$nd":[0,"float32",[2500000000]]}', (60,), r"^data: buffer 0 should have 10000000000 bytes, but has 60"),
        (b'{"$nd":[0,"float32",[-3]]}', (12,), r"^data: shape must be a list of sizes, but is \[-3\]"),
        (b'{"$nd":[0,"float32",[-3,-1]]}', (12,), r"^data: shape must be a list of sizes"),
        (b'{"$nd":[0,"int8",[true]]}', (1,), r"^data: shape must be a list of sizes"),
        (b'{"$nd":[0,"int8",[1.0]]}', (1,), r"^data: shape must be a list of sizes"),
        (b'{"$nd":[0,"int8",1]}', (1,), r"^data: shape must be a list of sizes"),
        (b'{"$nd":[0,"int8",[4294967296,4294967296,4]]}', (0,), r"^data: shape .* is beyond what can be addressed"),
        (b'{"$nd":[0,"int8",[0,4294967296,4294967296]]}', (0,), r"^data: shape .* is beyond what can be addressed"),
        (b'{"$nd":[0,"int8",[' + b",".join([b"1"] * 33) + b"]]}", (1,), r"^data: 33 dimensions are too many"),
        (b'{"$nd":[0,"O",[1]]}', (8,), r"^data: dtype 'O' is not known"),
        (b'{"$nd":[0,"float32,float32",[1]]}', (8,), r"^data: dtype 'float32,float32' is not known"),
        (b'{"$nd":[0,["float32"],[1]]}', (4,), r"^data: dtype must be a name"),
        (b'{"$nd":[0,"float32"]}', (4,), r"^data: \$nd needs \[index, dtype, shape\]"),
        (b'{"$nd":null}', (4,), r"^data: \$nd needs \[index, dtype, shape\]"),
        (b'{"$torch":[0,"qint8",[1]]}', (1,), r"^data: tensor dtype 'qint8' is not known"),
        (b'{"$torch":[0,{},[1]]}', (1,), r"^data: tensor dtype \{\} is not known"),
        (b'{"$torch":[0,"float32",[1]]}', (5,), r"^data: buffer 0 should have 4 bytes"),
    ],
    ids=lambda value: None if isinstance(value, tuple) else value[:40],
)
def test_a_bad_message_is_a_decode_error_that_names_the_place(
    text: bytes, sizes: tuple[int, ...], message: str
) -> None:
    with pytest.raises(DecodeError, match=message):
        plan(b'{"round":1}' if sizes != (1 << 40,) else b"{}", text, sizes)


@pytest.mark.parametrize("meta", [b"[]", b"null", b'{"$tuple":[]}', b'{"$float":"nan"}', b'{"$bytes":[0,1]}', b"{"])
def test_meta_must_be_an_object(meta: bytes) -> None:
    with pytest.raises(DecodeError, match=r"^meta: "):
        plan(meta, b"{}", (1,) if b"bytes" in meta else ())


def test_nothing_is_allocated_for_a_false_size() -> None:
    text = b'[{"$nd":[0,"float32",[500000000]]},{"$bytes":[1,2000000000]},{"$nd":[2,"int8",[4]]}]'
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError, match=r"^data\[2\]: buffer 2 should have 4 bytes, but has 3"):
            plan(b"{}", text, (2_000_000_000, 2_000_000_000, 3))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_data_too_large_for_memory_is_a_decode_error() -> None:
    limits = CodecLimits(max_bytes=1 << 62)
    for text in (b'{"$nd":[0,"int8",[1152921504606846976]]}', b'{"$bytes":[0,1152921504606846976]}'):
        with pytest.raises(DecodeError, match="cannot be held"):
            plan(b"{}", text, (1 << 60,), limits)


def test_the_error_of_a_dtype_names_the_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    from redflare_broker.wire import dtypes

    monkeypatch.delitem(dtypes._BY_NAME, "bfloat16", raising=False)
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(DecodeError, match=r"^data: dtype 'bfloat16' needs ml_dtypes: pip install ml_dtypes"):
        plan(b"{}", b'{"$nd":[0,"bfloat16",[1]]}', (2,))
