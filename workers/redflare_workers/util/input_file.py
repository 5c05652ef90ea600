"""A mark for arguments of components that name a file to read, so that a job can be checked for it."""

from __future__ import annotations

from typing import Final


class _InputFile:
    def __repr__(self) -> str:
        return "INPUT_FILE"


#: ``path: Annotated[str, INPUT_FILE]``
INPUT_FILE: Final = _InputFile()
