"""A function whose call would run nothing of it is known before it is called."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from redflare_broker.util.plain_function import check_overrides, why_not_plain


def plain(*_: object) -> int:
    return 1


async def later(*_: object) -> int:
    return 1


def piecemeal(*_: object) -> Iterator[int]:
    yield 1


async def piecemeal_later(*_: object) -> AsyncIterator[int]:
    yield 1


class Plain:
    def __call__(self) -> int:
        return 1

    def method(self) -> int:
        return 1


class Later:
    async def __call__(self) -> int:
        return 1

    async def method(self) -> int:
        return 1


@functools.wraps(later)
def runs_it(*args: object) -> int:
    return 1


@pytest.mark.parametrize(
    "function", [plain, functools.partial(plain, 1), Plain(), Plain().method, Plain, Later, runs_it, len, lambda: 1, 7]
)
def test_what_runs_when_it_is_called_is_plain(function: Any) -> None:
    assert why_not_plain(function) == ""


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (later, "an async function"),
        (functools.partial(later, 1), "an async function"),
        (Later(), "an async function"),
        (Later().method, "an async function"),
        (functools.partial(Later()), "an async function"),
        (piecemeal_later, "an async function"),
        (piecemeal, "a generator function"),
        (functools.partial(piecemeal, 1), "a generator function"),
    ],
)
def test_what_only_makes_an_object_is_not(function: Callable[..., Any], kind: str) -> None:
    assert why_not_plain(function).startswith(kind)


def test_a_method_must_run_where_the_one_that_it_overrides_does() -> None:
    class Both(Plain):
        async def method(self) -> int:  # type: ignore[override]
            return 1

    with pytest.raises(TypeError, match=r"Both.method is an async function, of which a call runs nothing"):
        check_overrides(Both)
    check_overrides(Later)
    check_overrides(type("Below", (Later,), {"method": Later.method}))
