"""Which values of a config fit the annotations of a constructor."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, Union

import numpy as np
import pytest
from redflare_workers.jobs.argument_types import hints_of, misfit, wrong_types


class Order(StrEnum):
    FIXED = "fixed"


class Other:
    """A class that is not judged."""


def built(value: object) -> bool:
    return isinstance(value, dict) and "path" in value


@pytest.mark.parametrize(
    ("hint", "values"),
    [
        (int, [3, -1]),
        (float, [3, 2.5]),
        (str, ["", "3"]),
        (bool, [True]),
        (None, [None]),
        (int | None, [3, None]),
        (Optional[int], [3, None]),  # noqa: UP045
        (Union[str, list[int]], ["a", [1, 2], []]),  # noqa: UP007
        (Literal["a", 1], ["a", 1]),
        (list, [[], [1, "a"]]),
        (Sequence[float], [[1, 2.5]]),
        (tuple[int, ...], [[1, 2]]),
        (tuple[int, str], [[1, "a"]]),
        (Iterable[str], [["a"]]),
        (Mapping[str, int], [{"a": 1}, {}]),
        (dict, [{"a": []}]),
        (Annotated[int, "of rounds"], [3]),
        (Order, ["fixed"]),
        (Path, ["a/b"]),
        (str | os.PathLike[str] | None, ["a", None]),
        (Callable[[int], int], [{"path": "a.b"}]),
        (list[int], [[1, {"path": "a.b"}]]),
        (Any, [1, None, "a"]),
        (object, [1, None, "a"]),
        (Other, ["made of a text"]),
        (np.ndarray, [[1.0]]),
        ("a name that nobody knows", [3]),
    ],
)
def test_a_value_that_fits_has_no_misfit(hint: Any, values: list[Any]) -> None:
    assert [misfit(value, hint, built) for value in values] == [""] * len(values)


@pytest.mark.parametrize(
    ("hint", "value", "text"),
    [
        (int, "three", "must be a whole number, but is 'three'"),
        (int, 2.5, "must be a whole number, but is 2.5"),
        (int, True, "must be a whole number, but is true"),
        (float, False, "must be a number, but is false"),
        (float | None, "fast", "must be a number or null, but is 'fast'"),
        (bool, 1, "must be true or false, but is 1"),
        (str, None, "must be a text, but is null"),
        (None, 0, "must be null, but is 0"),
        (Literal["a", 1], True, "must be one of 'a', 1, but is true"),
        (list[int], 3, "must be a list, but is 3"),
        (list[int], [1, "a"], "must be a list, but is [1, 'a']"),
        (dict[str, int], {"a": "b"}, "must be a dict, but is {'a': 'b'}"),
        (dict[str, int], [1], "must be a dict, but is [1]"),
        (Order, "random", "must be one of 'fixed', but is 'random'"),
        (Path, 3, "must be a path, but is 3"),
        (Callable[[int], int], "f", "must be a component, but is 'f'"),
        (str | list[str], 3, "must be a text or a list, but is 3"),
    ],
)
def test_a_value_that_does_not_fit_is_described(hint: Any, value: Any, text: str) -> None:
    assert misfit(value, hint, built) == text


def test_a_default_of_none_allows_none() -> None:
    def make(rate: float = None, names: list[str] = None, other: Unknown = None) -> None:  # type: ignore[name-defined, assignment]  # noqa: F821, RUF013
        """Nothing."""

    class Trainer:
        def __init__(self, rate: float = None, **more: int) -> None:  # type: ignore[assignment]  # noqa: RUF013
            """Nothing."""

    assert wrong_types(make, {"rate": "x", "other": 3}, built) == []
    assert wrong_types(Trainer, {"rate": None, "more": "x"}, built) == []
    assert wrong_types(Trainer, {"rate": "x"}, built) == [("rate", "must be a number or null, but is 'x'")]
    assert hints_of(print) is not None
    assert hints_of(int) == {}
