"""Config files and their variables."""

from __future__ import annotations

import json
from typing import Any

import pytest
from redflare_workers.jobs.config_file import find_config, load_config
from redflare_workers.jobs.variables import substitute

TREE = {"format_version": 2, "rounds": 3, "components": [{"id": "a", "args": {"on": True}}]}
WRITTEN = {
    ".json": '{"format_version": 2, "rounds": 3, "components": [{"id": "a", "args": {"on": true}}]}',
    ".yml": "format_version: 2\nrounds: 3\ncomponents:\n- {id: a, args: {'on': true}}\n",
    ".toml": 'format_version = 2\nrounds = 3\n[[components]]\nid = "a"\nargs = {on = true}\n',
}


@pytest.mark.parametrize("suffix", [".json", ".yml", ".toml"])
def test_all_ways_of_writing_give_the_same(suffix: str) -> None:
    assert load_config(f"x{suffix}", WRITTEN[suffix].encode()) == (TREE, [])


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("x.json", b'{"a": 1,}', "x.json: is not valid JSON: "),
        ("x.json", b'{"a": 1, "a": 2}', "x.json: has the duplicate key 'a'"),
        ("x.json", b"[1]", "x.json: must hold a dict, but holds a list"),
        ("x.json", b'{"a": NaN}', "x.json: a: is nan, which JSON does not know"),
        ("x.json", b"\xff", "x.json: is not UTF-8: "),
        ("x.json", b'{"a": ' + b"[" * 50 + b"]" * 50 + b"}", "x.json: is nested more than 40 deep"),
        ("x.json", b"[" * 100_000, "x.json: is nested more than 40 deep"),
        ("x.json", b" " * (5 << 20), "x.json: has 5242880 bytes, but a config file may have at most 4194304"),
        ("x.toml", b"a = ", "x.toml: is not valid TOML: "),
        ("x.toml", b"a = 2024-01-01", "x.toml: a: is a date; write it as a text"),
        ("x.yaml", b"a: [1", "x.yaml: is not valid YAML: "),
        ("x.yaml", b"a: 1\na: 2", "x.yaml: has the duplicate key 'a'"),
        ("x.yaml", b"a: {on: 1}", "x.yaml: a: has the key True, which is not a text; put it in quotes"),
        ("x.yaml", b"a: !!python/object/apply:os.system ['x']", "x.yaml: is not valid YAML: "),
        ("x.yaml", b"a: &a [*a]", "x.yaml: is nested more than 40 deep"),
        (
            "x.yaml",
            b"\n".join(
                [
                    b"a: &a [1, 2]",
                    *(b"%c: &%c [%s]" % (c, c, b",".join([b"*%c" % (c - 1)] * 9)) for c in range(98, 110)),
                ]
            ),
            "x.yaml: is nested more than 40 deep, or has more than 1000000 values",
        ),
    ],
)
def test_an_unreadable_file_is_an_error(file: str, text: bytes, expected: str) -> None:
    tree, problems = load_config(file, text)
    assert tree == {}
    assert str(problems[0]).startswith(expected)


def test_a_config_is_found_by_its_suffix_and_is_there_once() -> None:
    assert find_config("a/x", {"a/x.toml", "x.json"}) == ("a/x.toml", [])
    assert str(find_config("a/x", {"a/x.toml", "a/x.json"})[1][0]) == (
        "a/x: exists more than once: a/x.json, a/x.toml; keep one of them"
    )
    assert str(find_config("a/x", set())[1][0]) == "a/x.json: is missing"
    assert "is HOCON" in str(find_config("a/x", {"a/x.conf"})[1][0])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{rounds}", 3),
        (" {rounds} ", 3),
        ("{rate}", 0.5),
        ("r{rounds}-{site}", "r3-site-1"),
        ("{twice}", "site-1!"),
        ("{other} of many", "{other} of many"),
        ("{{rounds}}", "{rounds}"),
        ("{}", "{}"),
        ("{JOB_ID}", "job-7"),
        ("/runs/{JOB_ID}/x", "/runs/job-7/x"),
        ('{"a": 1}', '{"a": 1}'),
    ],
)
def test_a_variable_becomes_its_value(text: str, expected: Any) -> None:
    tree = {"rounds": 3, "rate": 0.5, "site": "site-1", "twice": "{site}!", "list": [{"args": text}]}
    done, problems = substitute(tree, "x.json", {"JOB_ID": "job-7"})
    assert (done["list"][0]["args"], problems) == (expected, [])


def test_what_is_known_only_at_the_site_stays_until_then() -> None:
    assert substitute({"a": ["{JOB_ID}", "x-{SITE_NAME}"]}, "x.json", None) == (
        {"a": ["{JOB_ID}", "x-{SITE_NAME}"]},
        [],
    )


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        (
            {"round": 3, "a": ["{rounds}"]},
            "x.json: a[0]: '{rounds}' names no value of the top level; did you mean 'round'?",
        ),
        ({"a": "{b}", "b": "{a}"}, "x.json: a: '{b}' leads back to itself: b -> a -> b"),
        ({"list": [1], "a": "{list}"}, "x.json: a: '{list}' names no value of the top level"),
    ],
)
def test_an_unknown_variable_is_an_error(tree: dict[str, Any], expected: str) -> None:
    assert str(substitute(tree, "x.json", {})[1][0]).startswith(expected)


def test_variables_that_grow_without_end_are_refused() -> None:
    tree = {f"v{n}": f"{{v{n + 1}}}" * 10 + "x" for n in range(18)} | {"v18": "lol"}
    assert "at most 1048576" in str(substitute(tree, "x.json", {})[1][0])


def test_many_keys_take_no_time_that_grows_with_their_square() -> None:
    many = {f"key-{number}": 1 for number in range(200_000)}
    assert load_config("x.json", json.dumps(many).encode()) == (many, [])
