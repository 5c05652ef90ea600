"""Props are private or public, sticky or not, and sticky ones are the same in all contexts of a run."""

from __future__ import annotations

import logging
import threading

import pytest
from redflare_workers.apis import FLContext, FLContextKey, FLContextManager, ReservedKey, Signal


@pytest.fixture
def manager() -> FLContextManager:
    return FLContextManager(
        engine="engine",
        identity_name="site-1",
        job_id="job-1",
        public_stickers={"public": 1},
        private_stickers={"private": 2},
    )


def test_props_are_private_and_sticky_by_default() -> None:
    ctx = FLContext()
    assert ctx.set_prop("key", "value")
    assert ctx.get_prop("key") == "value"
    assert ctx.get_prop("absent", "default") == "default"
    assert ctx.get_prop_detail("key") == {"value": "value", "private": True, "sticky": True}
    assert ctx.get_prop_detail("absent") is None


def test_a_prop_may_hold_none() -> None:
    ctx = FLContext()
    ctx.set_prop("key", None)
    assert ctx.get_prop("key", "default") is None


@pytest.mark.parametrize(("private", "sticky"), [(False, True), (True, False), (False, False)])
def test_a_prop_cannot_change_its_kind(private: bool, sticky: bool, caplog: pytest.LogCaptureFixture) -> None:
    ctx = FLContext()
    ctx.set_prop("key", "old")
    with caplog.at_level(logging.WARNING):
        assert ctx.set_prop("key", "new", private=private, sticky=sticky) is False
    assert "prop 'key' stays private:sticky" in caplog.text
    assert ctx.get_prop("key") == "old"


def test_a_key_must_be_a_str() -> None:
    with pytest.raises(ValueError, match="the key of a prop must be a str, but is 7"):
        FLContext().set_prop(7, "value")  # type: ignore[arg-type]


def test_reserved_props_are_removed_only_by_force() -> None:
    ctx = FLContext()
    ctx.set_prop("__reserved__", 1)
    ctx.set_prop("mine", 2)
    ctx.remove_prop("mine")
    ctx.remove_prop("absent")
    ctx.remove_prop("__reserved__")
    assert ctx.get_prop_keys() == ["__reserved__"]
    ctx.remove_prop("__reserved__", force_removal=True)
    assert ctx.get_prop_keys() == []


def test_a_removed_prop_may_be_set_again_as_another_kind() -> None:
    ctx = FLContext()
    ctx.set_prop("key", 1)
    ctx.remove_prop("key")
    assert ctx.set_prop("key", 2, private=False, sticky=False)


def test_peers_see_public_props_only() -> None:
    ctx = FLContext()
    ctx.set_prop("secret", 1)
    ctx.set_prop("open", 2, private=False)
    assert ctx.get_all_public_props() == {"open": 2}
    assert (ctx.public_key_exists("open"), ctx.public_key_exists("secret")) == (True, False)


def test_set_public_props_replaces_the_public_ones_and_spares_the_private_ones() -> None:
    ctx = FLContext()
    ctx.set_prop("secret", 1)
    ctx.set_prop("open", 2, private=False, sticky=False)
    ctx.set_prop("open sticky", 3, private=False, sticky=True)
    ctx.set_public_props({"new": 4})
    assert ctx.get_all_public_props() == {"new": 4}
    assert ctx.get_prop("secret") == 1


def test_a_new_context_knows_the_run_it_belongs_to(manager: FLContextManager) -> None:
    with manager.new_context() as ctx:
        assert ctx.get_engine() == "engine"
        assert ctx.get_identity_name() == "site-1"
        assert ctx.get_job_id() == "job-1"
        assert (ctx.get_prop("public"), ctx.get_prop("private")) == (1, 2)
        assert ctx.get_all_public_props() == {
            ReservedKey.RUN_NUM: "job-1",
            ReservedKey.IDENTITY_NAME: "site-1",
            "public": 1,
        }
        assert repr(ctx) == "FLContext(identity='site-1', job='job-1', props=6)"


def test_a_context_of_no_run_returns_defaults() -> None:
    ctx = FLContext()
    assert ctx.get_engine("none") == "none"
    assert (ctx.get_identity_name(), ctx.get_job_id(), ctx.get_process_type()) == ("", None, None)
    assert ctx.get_run_abort_signal() is None
    assert ctx.get_peer_context() is None
    assert ctx.is_job_unsafe() is False


def test_sticky_props_reach_earlier_and_later_contexts(manager: FLContextManager) -> None:
    earlier, writer = manager.new_context(), manager.new_context()
    assert earlier.get_prop("round") is None
    writer.set_prop("round", 1)
    assert earlier.get_prop("round") == 1
    writer.set_prop("round", 2)
    assert earlier.get_prop("round") == 2
    assert manager.new_context().get_prop("round") == 2


def test_other_props_stay_in_their_context(manager: FLContextManager) -> None:
    one, other = manager.new_context(), manager.new_context()
    one.set_prop("round", 1, sticky=False)
    assert other.get_prop("round") is None
    assert other.set_prop("round", 2, sticky=True)
    assert one.get_prop("round") == 1


def test_a_sticky_prop_cannot_change_its_kind_from_another_context(manager: FLContextManager) -> None:
    one, other = manager.new_context(), manager.new_context()
    assert one.set_prop("round", 1, private=True, sticky=True)
    assert other.set_prop("round", 2, private=False, sticky=True) is False
    assert one.get_prop("round") == other.get_prop("round") == 1


def test_a_refused_prop_does_not_reach_the_run(manager: FLContextManager) -> None:
    one, other = manager.new_context(), manager.new_context()
    one.set_prop("round", 1, sticky=False)
    assert one.set_prop("round", 2, sticky=True) is False
    assert other.get_prop("round") is None


def test_put_stays_in_its_context_and_ignores_kinds(manager: FLContextManager) -> None:
    one, other = manager.new_context(), manager.new_context()
    one.set_prop("key", 1, private=False, sticky=False)
    one.put("key", 2, private=True, sticky=True)
    assert one.get_prop_detail("key") == {"value": 2, "private": True, "sticky": True}
    assert other.get_prop("key") is None


def test_custom_props_are_reserved_for_the_application() -> None:
    ctx = FLContext()
    assert ctx.get_custom_prop("a", 0) == 0
    ctx.set_custom_prop("a", 1)
    ctx.set_custom_prop("b", 2)
    assert (ctx.get_custom_prop("a"), ctx.get_custom_prop("b")) == (1, 2)
    assert ctx.get_prop(FLContextKey.CUSTOM_PROPS) == {"a": 1, "b": 2}


def test_a_clone_has_props_of_its_own_in_the_same_run(manager: FLContextManager) -> None:
    ctx = manager.new_context()
    ctx.set_prop("mine", 1, sticky=False)
    clone = ctx.clone()
    clone.set_prop("mine", 2, sticky=False)
    clone.set_prop("round", 3)
    assert (ctx.get_prop("mine"), ctx.get_prop("round")) == (1, 3)


def test_the_conveniences_read_what_they_set() -> None:
    ctx, peer, signal = FLContext(), FLContext(), Signal()
    ctx.set_peer_context(peer)
    ctx.set_job_is_unsafe()
    ctx.set_prop(FLContextKey.RUN_ABORT_SIGNAL, signal, sticky=False)
    assert ctx.get_peer_context() is peer
    assert ctx.is_job_unsafe() is True
    assert ctx.get_run_abort_signal() is signal


def test_of_threads_that_set_different_kinds_one_wins_for_all(manager: FLContextManager) -> None:
    for number in range(50):
        barrier, outcomes = threading.Barrier(2), list[bool]()

        def disagree(
            private: bool, key: str = f"key{number}", barrier: threading.Barrier = barrier, to: list[bool] = outcomes
        ) -> None:
            ctx = manager.new_context()
            barrier.wait(10)
            to.append(ctx.set_prop(key, private, private=private))

        threads = [threading.Thread(target=disagree, args=(private,)) for private in (True, False)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert sorted(outcomes) == [False, True]
