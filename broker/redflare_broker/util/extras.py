"""How an optional part of redflare is installed, for errors that miss it."""

from __future__ import annotations


def how_to_install(extra: str) -> str:
    """Return the command that installs an extra of pyproject.toml, from a checkout and from a wheel."""
    return f"pip install '.[{extra}]' in the checkout, or pip install './WHEEL[{extra}]' with the name of the wheel"
