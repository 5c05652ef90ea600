"""The code that a job brings, examined without running it."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import pytest
from redflare_workers.jobs.custom_code import CustomCode

SOURCE = "\n".join(f"def f{number}(a, b):\n    return [x for x in (a + b, (a, (b, (a, b))))]" for number in range(60))


class Garbage:
    """Runs Python code when it is collected, in whatever another thread is doing then."""

    def __init__(self) -> None:
        self.cycle = self

    def __del__(self) -> None:
        for _ in range(50):
            pass


@pytest.fixture
def frequent_collections() -> Iterator[None]:
    thresholds = gc.get_threshold()
    gc.set_threshold(50, 2, 2)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.collect()


def test_threads_that_examine_code_at_once_do_not_disturb_each_other(frequent_collections: None) -> None:
    code = CustomCode({"net.py": SOURCE.encode()})
    answers: list[str] = []

    def examine(depth: int) -> None:
        if depth:  # each thread parses from another depth
            examine(depth - 1)
            return
        for _ in range(8):
            garbage = [Garbage() for _ in range(5)]
            del garbage
            answers.append(code.lacks("net.f7"))

    threads = [threading.Thread(target=examine, args=(3 * number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [""] * 48
