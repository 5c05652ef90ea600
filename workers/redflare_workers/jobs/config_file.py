"""Config files in JSON, YAML or TOML, as trees of plain values."""

from __future__ import annotations

import importlib
import json
import math
import tomllib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from .problems import Problem

#: In the order in which they are tried.
SUFFIXES: Final = (".json", ".yaml", ".yml", ".toml")

_MAX_BYTES: Final = 4 << 20
_MAX_DEPTH: Final = 40
#: YAML's aliases can make a huge tree of a small file.
_MAX_VALUES: Final = 1_000_000


class _Unreadable(Exception):
    """The file cannot be read; the message says why."""


def find_config(stem: str, paths: Collection[str]) -> tuple[str | None, list[Problem]]:
    """Find the file ``<stem>.json``, or one with another suffix, among paths; more than one is an error."""
    found = [stem + suffix for suffix in SUFFIXES if stem + suffix in paths]
    if len(found) > 1:
        return None, [Problem(stem, "", f"exists more than once: {', '.join(found)}; keep one of them")]
    if found:
        return found[0], []
    if (hocon := f"{stem}.conf") in paths:  # NVFlare reads it too
        return None, [Problem(hocon, "", "is HOCON, which is not read here; write it as JSON, YAML or TOML")]
    return None, [Problem(f"{stem}.json", "", "is missing")]


def load_config(file: str, data: bytes) -> tuple[dict[str, Any], list[Problem]]:
    """Parse a config file, in the format of its suffix, into a tree of plain values; empty if it cannot be read."""
    try:
        if len(data) > _MAX_BYTES:
            raise _Unreadable(f"has {len(data)} bytes, but a config file may have at most {_MAX_BYTES}")
        tree = _parse(file, data)
        if not isinstance(tree, dict):
            raise _Unreadable(f"must hold a dict, but holds a {type(tree).__name__}")
    except _Unreadable as error:
        return {}, [Problem(file, "", str(error))]
    except RecursionError:
        return {}, [Problem(file, "", f"is nested more than {_MAX_DEPTH} deep")]
    problems = [Problem(file, key, text) for key, text in _oddities(tree)]
    return ({} if problems else tree), problems


def read_config(stem: str, files: Mapping[str, bytes]) -> tuple[str, dict[str, Any], list[Problem]]:
    """Find the config file of a stem, as ``find_config`` does, and load it as ``load_config`` does."""
    file, problems = find_config(stem, files)
    return ("", {}, problems) if file is None else (file, *load_config(file, files[file]))


def _parse(file: str, data: bytes) -> Any:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _Unreadable(f"is not UTF-8: {error}") from error
    if file.endswith(".json"):
        return _parse_json(text)
    if file.endswith(".toml"):
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise _Unreadable(f"is not valid TOML: {error}") from error
    return _parse_yaml(text)


def _parse_json(text: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _check_once(key for key, _ in pairs)
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=once)
    except ValueError as error:
        raise _Unreadable(f"is not valid JSON: {error}") from error


def _check_once(keys: Iterable[str]) -> None:
    if doubled := [key for key, count in Counter(keys).items() if count > 1]:
        raise _Unreadable(f"has the duplicate key {min(doubled)!r}")


def _parse_yaml(text: str) -> Any:
    try:
        yaml: Any = importlib.import_module("yaml")
    except ImportError:
        raise _Unreadable("is YAML, for which PyYAML is needed: pip install pyyaml, or write it as JSON") from None

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """Raises for duplicate keys."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            _check_once(str(key.value) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge")
            return super().construct_mapping(node, deep=deep)

    try:
        return yaml.load(text, Loader)
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise _Unreadable(f"is not valid YAML: {' '.join(str(error).split())}") from error


def _oddities(tree: Any) -> Iterable[tuple[str, str]]:
    """Find values that JSON cannot hold, by key."""
    found: list[tuple[str, str]] = []
    todo: list[tuple[str, Any, int]] = [("", tree, 0)]
    count = 0
    while todo:
        key, value, depth = todo.pop()
        count += 1
        if depth > _MAX_DEPTH or count > _MAX_VALUES:
            return [("", f"is nested more than {_MAX_DEPTH} deep, or has more than {_MAX_VALUES} values")]
        if isinstance(value, dict):
            for name, each in value.items():
                if not isinstance(name, str):
                    found.append((key, f"has the key {name!r}, which is not a text; put it in quotes"))
                todo.append((f"{key}.{name}" if key else str(name), each, depth + 1))
        elif isinstance(value, list):
            todo.extend((f"{key}[{place}]", each, depth + 1) for place, each in enumerate(value))
        elif isinstance(value, float) and not math.isfinite(value):
            found.append((key, f"is {value}, which JSON does not know; write it as a text"))
        elif value is not None and not isinstance(value, str | bool | int | float):
            found.append((key, f"is a {type(value).__name__}; write it as a text"))
    return found
