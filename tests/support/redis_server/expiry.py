"""Whether a key that is left behind goes by itself."""

from __future__ import annotations

_GONE = -2


def assert_expires(key: str, left_ms: object, seconds: float) -> None:
    """Check a reply of PTTL: the key is gone already, or goes within ``seconds``; 0 is its last millisecond."""
    assert isinstance(left_ms, int)
    assert left_ms == _GONE or 0 <= left_ms <= seconds * 1000, f"{key} expires in {left_ms} ms"
