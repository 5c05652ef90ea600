"""A Shareable is a dict with headers, and its copies have headers of their own."""

from __future__ import annotations

import copy
import pickle

import pytest
from redflare_workers.apis import ReservedHeaderKey, ReturnCode, Shareable, make_copy, make_reply


def test_content_is_plain_dict_content_and_headers_are_separate() -> None:
    shareable = Shareable({"a": 1})
    shareable.set_header("round", 3)
    assert shareable == {"a": 1, "__headers__": {"round": 3}}
    assert shareable.get_header("round") == 3
    assert shareable.get_header("absent", "default") == "default"


def test_headers_of_the_initial_data_are_left_out() -> None:
    first = Shareable()
    first.set_header("round", 3)
    assert Shareable(first).get_header("round") is None
    assert first.get_header("round") == 3


def test_removed_headers_are_created_again() -> None:
    shareable = Shareable()
    del shareable[ReservedHeaderKey.HEADERS]
    assert shareable.get_header("round", 7) == 7
    shareable.set_header("round", 3)
    assert shareable.get_header("round") == 3


def test_headers_that_are_no_dict_are_named_in_the_error() -> None:
    shareable = Shareable()
    shareable[ReservedHeaderKey.HEADERS] = [1]
    with pytest.raises(ValueError, match=r"must be a dict, but '__headers__' holds a list"):
        shareable.get_header("round")


def test_a_shareable_without_return_code_counts_as_ok() -> None:
    shareable = Shareable()
    assert shareable.get_return_code() == ReturnCode.OK
    assert shareable.get_return_code(default=None) is None
    shareable.set_return_code(ReturnCode.TASK_ABORTED)
    assert shareable.get_return_code() == "TASK_ABORTED"
    assert shareable.get_header("__rc__") == "TASK_ABORTED"


def test_cookies_are_kept_in_one_jar_that_a_reply_can_echo() -> None:
    request, reply = Shareable(), Shareable()
    assert request.get_cookie_jar() is None
    assert request.get_cookie("a", 0) == 0
    request.add_cookie("a", 1)
    request.add_cookie("b", 2)
    reply.set_cookie_jar(request.get_cookie_jar())
    assert (reply.get_cookie("a"), reply.get_cookie("b")) == (1, 2)


def test_peer_props_are_read_one_by_one_and_bad_ones_give_the_default() -> None:
    shareable = Shareable()
    assert shareable.get_peer_prop("name", "nobody") == "nobody"
    shareable.set_peer_props({"name": "site-1"})
    assert shareable.get_peer_prop("name", "nobody") == "site-1"
    shareable.set_header(ReservedHeaderKey.PEER_PROPS, "not a dict")
    assert shareable.get_peer_prop("name", "nobody") == "nobody"


def test_the_peer_context_is_a_header() -> None:
    shareable = Shareable()
    shareable.set_peer_context("context")
    assert shareable.get_peer_context() == "context"
    assert shareable.get_header("__peer_ctx__") == "context"


def test_make_reply_carries_the_return_code_and_headers() -> None:
    reply = make_reply(ReturnCode.BAD_TASK_DATA, {"why": "no DXO"})
    assert reply.get_return_code() == "BAD_TASK_DATA"
    assert reply.get_header("why") == "no DXO"
    assert set(reply) == {"__headers__"}


def test_make_copy_shares_content_and_copies_headers_deeply() -> None:
    source = Shareable({"model": [1, 2]})
    source.set_header("deep", {"n": [1]})
    result = make_copy(source)
    result.get_header("deep")["n"].append(2)
    result["more"] = True
    assert isinstance(result, Shareable)
    assert result["model"] is source["model"]
    assert source.get_header("deep") == {"n": [1]}
    assert "more" not in source


def test_make_copy_leaves_excluded_headers_out() -> None:
    source = Shareable()
    source.set_header("keep", 1)
    source.set_header("drop", 2)
    result = make_copy(source, exclude_headers=["drop", "absent"])
    assert result[ReservedHeaderKey.HEADERS] == {"keep": 1}
    assert source.get_header("drop") == 2


def test_make_copy_refuses_anything_but_a_shareable() -> None:
    with pytest.raises(TypeError, match="source must be a Shareable, but got dict"):
        make_copy({"a": 1})  # type: ignore[arg-type]


def test_a_copied_or_pickled_shareable_keeps_its_headers() -> None:
    source = Shareable({"a": 1})
    source.set_header("round", 3)
    for result in (copy.copy(source), copy.deepcopy(source), pickle.loads(pickle.dumps(source))):
        assert isinstance(result, Shareable)
        assert result == source


def test_repr_shows_keys_and_headers_but_no_content() -> None:
    shareable = Shareable({"model": "x" * 1000})
    shareable.set_return_code("OK")
    assert repr(shareable) == "Shareable(keys=['model'], headers={'__rc__': 'OK'})"
