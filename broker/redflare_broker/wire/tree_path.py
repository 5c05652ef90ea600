"""The place of a value in a tree of data: ``data.layers[3].w``."""

from __future__ import annotations


class TreeError(Exception):
    """A value that cannot be sent or read; each level adds its key on the way up, so that a good tree pays nothing."""

    def __init__(self, text: str, *, too_large: bool = False) -> None:
        super().__init__(text)
        self.text = text
        self.too_large = too_large
        self._steps: list[str] = []

    def at(self, key: str | int) -> TreeError:
        """Add the key of the level that was just left."""
        if isinstance(key, int):
            self._steps.append(f"[{key}]")
        elif key.isidentifier():
            self._steps.append(f".{key}"[:80])
        else:
            self._steps.append(f"[{key[:80]!a}]")
        return self

    def under(self, root: str) -> str:
        """Return the message, with the path from ``root`` in front; the middle of a very deep one is left out."""
        steps = self._steps[::-1]
        if len(steps) > 12:
            steps = [*steps[:8], "...", *steps[-3:]]
        return f"{root}{''.join(steps)}: {self.text}"
