"""``{name}`` in a config: values of its top level, and variables of the run. After NVFlare's configs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from redflare_broker.util.did_you_mean import did_you_mean

from .problems import Problem, ProblemReader

#: Known only when the job runs: its id, the name of the site or "server", the folders of the run, of the app's custom
#: code and of its config.
RUN_VARIABLES: Final = ("JOB_ID", "SITE_NAME", "WORKSPACE", "JOB_CUSTOM_DIR", "JOB_CONFIG_DIR")

#: ``{{`` and ``}}`` are braces.
_TOKEN: Final = re.compile(r"\{\{|\}\}|\{([A-Za-z_$]\w*)\}")
_MAX_ROUNDS: Final = 20
_MAX_LENGTH: Final = 1 << 20


def substitute(
    tree: dict[str, Any], file: str, variables: Mapping[str, Any] | None
) -> tuple[dict[str, Any], list[Problem]]:
    """Replace the variables in a tree.

    A text that is one variable becomes its value, of whatever type; in a longer text the value is written out. A
    unknown variable is an error when it is all of a text, and stays as it is in a longer one.

    Args:
        variables: of ``RUN_VARIABLES``; None: the job does not run yet, and they stay as they are.
    """
    own = {key: value for key, value in tree.items() if isinstance(value, str | bool | int | float)}
    work = _Substitution(file, own, variables)
    return {key: work.value(value, key) for key, value in tree.items()}, work.problems


class _Substitution(ProblemReader):
    def __init__(self, file: str, own: Mapping[str, Any], run: Mapping[str, Any] | None) -> None:
        super().__init__(file)
        self.known = {**own, **(run or {})}
        self.later = () if run is not None else RUN_VARIABLES
        #: results of variables that were replaced before
        self.values: dict[str, Any] = {}

    def value(self, value: Any, key: str) -> Any:
        if isinstance(value, str):
            return self._text(value, key, ())
        if isinstance(value, dict):
            return {name: self.value(each, f"{key}.{name}") for name, each in value.items()}
        if isinstance(value, list):
            return [self.value(each, f"{key}[{place}]") for place, each in enumerate(value)]
        return value

    def _text(self, text: str, key: str, within: tuple[str, ...]) -> Any:
        whole = _TOKEN.fullmatch(text.strip())
        if whole and whole[1]:
            return self._variable(whole[1], text, key, within)

        def written(match: re.Match[str]) -> str:
            if match[1] is None:
                return match[0][0]
            if match[1] not in self.known or match[1] in self.later:
                return match[0]
            return str(self._variable(match[1], match[0], key, within))

        done = _TOKEN.sub(written, text)
        if len(done) > max(_MAX_LENGTH, len(text)):
            self._add(
                key, f"has {len(done)} letters with its variables written out, but may have at most {_MAX_LENGTH}"
            )
            return text
        return done

    def _variable(self, name: str, text: str, key: str, within: tuple[str, ...]) -> Any:
        if name in self.later:
            return text
        if name in within or len(within) >= _MAX_ROUNDS:
            self._add(key, f"{text!r} leads back to itself: {' -> '.join((*within, name))}")
            return text
        if name not in self.known:
            hint = did_you_mean(name, [*self.known, *RUN_VARIABLES])
            self._add(key, f"{text!r} names no value of the top level{hint}; write {{{{ and }}}} for braces")
            return text
        if name not in self.values:
            value = self.known[name]
            self.values[name] = self._text(value, key, (*within, name)) if isinstance(value, str) else value
        return self.values[name]
