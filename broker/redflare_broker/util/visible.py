"""Text that others wrote, made visible instead of obeyed: a terminal acts on control codes, and is misled by others.

Whatever may come from a site, a job or another program passes here before it is printed or written into a log file.
"""

from __future__ import annotations

import codecs
import re
from typing import Final

#: Control codes but tabs and line ends, marks that change the direction of text, and what cannot be seen at all. The
#: joiners U+200C and U+200D are left: some scripts are written with them.
_HIDDEN: Final = re.compile(
    "\r(?!\n)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufff9-\ufffb\U000e0000-\U000e0fff]"
)


def visible(text: str) -> str:
    """Escape what a terminal would obey or hide, as Python does: ``\\x1b``, ``\\u202e``."""
    return _HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def visible_json(document: str) -> str:
    """Escape the same in a JSON document, which stays the same document."""
    return _HIDDEN.sub(lambda found: _utf16(found[0]), document)


def hidden_places(text: str) -> list[int]:
    """Return the indices of what ``visible`` escapes."""
    return [found.start() for found in _HIDDEN.finditer(text)]


def _utf16(letter: str) -> str:
    code = letter.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{code[at : at + 4]}" for at in range(0, len(code), 4))


class VisibleBytes:
    """Makes a stream of bytes visible, which comes in pieces that end anywhere."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        #: a carriage return at the end of a piece: the next begins with a line feed, or it is to be seen
        self._held = ""

    def feed(self, piece: bytes, *, last: bool = False) -> bytes:
        """Return what can be written by now."""
        text = self._held + self._decoder.decode(piece, last)
        self._held = "\r" if text.endswith("\r") and not last else ""
        return visible(text.removesuffix("\r") if self._held else text).encode()
