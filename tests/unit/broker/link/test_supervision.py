"""What the supervisor of an agent's process tells in Redis."""

from __future__ import annotations

import pytest
from redflare_broker.errors import DecodeError
from redflare_broker.link.supervision import Supervision
from redflare_broker.scripts.lease import Lease


def test_what_is_written_can_be_read() -> None:
    told = Supervision(within=27.5, ended="gpu-1:2544:d6022d55", ended_at=1795345193438)
    assert Supervision.read(told.to_entry(Lease.of_this_process("supervisor"), 5.0, 20_000)) == told


@pytest.mark.parametrize("entry", [b"", b"[]", b"{}", b'{"within": "soon", "ended": "", "ended_at": 0}'])
def test_anything_else_is_an_error_that_shows_it(entry: bytes) -> None:
    with pytest.raises(DecodeError, match="is not what a supervisor writes") as raised:
        Supervision.read(entry)
    assert repr(entry) in str(raised.value)


def test_a_lease_is_of_one_process_of_this_host() -> None:
    lease = Lease.of_this_process()
    host, pid, _ = lease.instance.rsplit(":", 2)
    assert lease.is_of(int(pid))
    assert not lease.is_of(int(pid) + 1)
    assert not Lease(instance=f"{host}-2:{pid}:d6022d55").is_of(int(pid))
