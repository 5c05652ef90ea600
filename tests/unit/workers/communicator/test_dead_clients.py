"""The watch list of clients that were reported dead."""

from __future__ import annotations

from redflare_workers.communicator.dead_clients import DeadClients


def test_a_client_is_disconnected_when_its_grace_is_over() -> None:
    dead = DeadClients(60)
    assert dead.report("a", 100.0)
    assert dead.expire(159.9) == []
    assert dead.disconnect_time("a") is None
    assert dead.expire(160.0) == ["a"]
    assert dead.disconnect_time("a") == 160.0
    assert dead.disconnected == {"a"}


def test_a_disconnected_client_is_reported_once() -> None:
    dead = DeadClients(60)
    dead.report("a", 100.0)
    dead.expire(160.0)
    assert dead.expire(170.0) == []
    assert dead.disconnect_time("a") == 160.0


def test_the_first_report_counts() -> None:
    dead = DeadClients(60)
    dead.report("a", 100.0)
    assert not dead.report("a", 150.0)
    assert dead.expire(160.0) == ["a"]
    assert not dead.report("a", 170.0)
    assert dead.disconnect_time("a") == 160.0


def test_a_sign_of_life_removes_a_client_from_the_list() -> None:
    dead = DeadClients(60)
    dead.report("a", 100.0)
    assert dead.active("a") == (True, False)
    assert dead.expire(200.0) == []
    assert len(dead) == 0
    assert dead.active("a") == (False, False)


def test_a_sign_of_life_of_a_disconnected_client_returns_true() -> None:
    dead = DeadClients(60)
    dead.report("a", 100.0)
    dead.expire(160.0)
    assert dead.active("a") == (True, True)
    assert dead.disconnected == frozenset()
    assert dead.disconnect_time("a") is None


def test_after_a_sign_of_life_a_new_grace_period_begins() -> None:
    dead = DeadClients(60)
    dead.report("a", 100.0)
    dead.active("a")
    dead.report("a", 150.0)
    assert dead.expire(160.0) == []
    assert dead.expire(210.0) == ["a"]


def test_the_next_change_is_the_end_of_the_oldest_grace() -> None:
    dead = DeadClients(60)
    assert dead.next_change() is None
    dead.report("a", 100.0)
    dead.report("b", 130.0)
    assert dead.next_change() == 160.0
    dead.expire(160.0)
    assert dead.next_change() == 190.0
    dead.expire(190.0)
    assert dead.next_change() is None


def test_where_clients_are_looked_at_only_a_look_ends_their_grace() -> None:
    dead = DeadClients(60)
    dead.look(100.0, 10.0)
    dead.report("a", 100.0)
    for second in range(105, 160, 5):
        dead.look(float(second), 10.0)
    assert dead.expire(1000.0) == []
    assert dead.next_change(1000.0) is None
    dead.look(160.0, 10.0)
    assert dead.expire(160.0) == ["a"]


def test_a_pause_of_those_who_look_is_no_part_of_the_grace() -> None:
    dead = DeadClients(60)
    dead.look(100.0, 10.0)
    dead.report("a", 100.0)
    dead.look(1100.0, 10.0)
    assert dead.expire(1100.0) == []
    assert dead.next_change(1100.0) == 1150.0
    for second in range(1105, 1150, 5):
        dead.look(float(second), 10.0)
        assert dead.expire(float(second)) == []
    dead.look(1150.0, 10.0)
    assert dead.expire(1150.0) == ["a"]


def test_a_look_that_is_dealt_with_late_does_not_hide_a_later_one() -> None:
    dead = DeadClients(60)
    dead.report("a", 100.0)
    dead.look(165.0, 100.0)
    dead.look(110.0, 100.0)
    assert dead.expire(165.0) == ["a"]
