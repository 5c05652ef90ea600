"""Text of others, made visible instead of obeyed."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redflare_broker.util.visible import VisibleBytes, visible, visible_json


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\x9b2J\x7f\x00\x08", "\\x9b2J\\x7f\\x00\\x08"),
        ("a\rb", "a\\rb"),
        ("a\u202egpj.exe\u2066\u200f\u061c", "a\\u202egpj.exe\\u2066\\u200f\\u061c"),
        ("zero\u200bwidth\ufeff\U000e0041", "zero\\u200bwidth\\ufeff\\U000e0041"),
        ("a\u2028b", "a\\u2028b"),
        ("\ud800", "\\ud800"),
        ("tab\tand\nlines\r\n", "tab\tand\nlines\r\n"),
        ("späß 模型 a\u200cb 👩\u200d🔬", "späß 模型 a\u200cb 👩\u200d🔬"),
    ],
)
def test_what_a_terminal_obeys_or_hides_is_escaped_and_nothing_else(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert visible(shown) == shown


@given(st.text())
def test_a_visible_text_has_no_control_code(text: str) -> None:
    shown = visible(text)
    assert not [each for each in shown if unicodedata.category(each) in ("Cc", "Cs") and each not in "\t\n\r"]
    assert shown.count("\r") == shown.count("\r\n")
    assert not [each for each in shown if unicodedata.bidirectional(each) in _DIRECTIONS]


_DIRECTIONS = ("LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI")


@given(st.dictionaries(st.text(), st.text(st.characters(exclude_categories=["Cs"]))))
def test_a_visible_document_is_the_same_document(document: dict[str, str]) -> None:
    shown = visible_json(json.dumps(document, ensure_ascii=False))
    assert json.loads(shown) == document
    assert visible(shown) == shown


@given(st.binary(), st.integers(1, 5))
def test_bytes_in_pieces_are_shown_as_the_whole(data: bytes, size: int) -> None:
    pieces = VisibleBytes()
    shown = b"".join(pieces.feed(data[at : at + size]) for at in range(0, len(data), size))
    shown += pieces.feed(b"", last=True)
    assert shown.decode() == visible(data.decode(errors="backslashreplace"))
