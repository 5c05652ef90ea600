"""The codec keeps no reference to arrays that its caller has dropped."""

from __future__ import annotations

import gc
import weakref

import numpy as np
from redflare_broker.wire.codec import decode, encode


def test_a_received_array_is_freed_as_soon_as_its_owner_drops_it() -> None:
    encoded = encode({}, {"w": np.ones(8, np.float32), "t": (1, b"bytes")})
    gc.disable()  # an array of 100 MB must not wait for the garbage collector
    try:
        _, data = decode(encoded.meta, encoded.data, encoded.buffers)
        array = weakref.ref(data["w"])
        del data
        assert array() is None
    finally:
        gc.enable()


def test_a_sent_array_is_not_kept_alive_by_its_encoding() -> None:
    gc.disable()
    try:
        sent = np.ones(8, np.float32)
        encoded = encode({}, {"w": sent})
        array = weakref.ref(sent)
        del sent, encoded
        assert array() is None
    finally:
        gc.enable()
