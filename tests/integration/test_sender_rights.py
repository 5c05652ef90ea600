"""What Redis lets a site's user do at the cells of others: write into its own inboxes there, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pytest
import redis
from redflare_broker.embedded.server import EmbeddedServer
from redflare_broker.errors import ServerError
from redflare_broker.job_state.members import Members
from redflare_broker.keys import Keys
from redflare_broker.scripts.lease import Lease
from redflare_broker.transport.server import ConnectionOptions, Server
from redflare_broker.wire.message_entry import REQUEST, Envelope

from tests.support.cell.cells import Cells, Parking, cells_at
from tests.support.redis_server.node import CJ_ACL
from tests.support.waiting import wait_until

NAMESPACE: Final = "flare"
COMMANDS: Final = CJ_ACL.partition("-@all ")[2]


def rules(site: str) -> str:
    """The rules of a site's user, for cells."""
    own = f"~flare:{{{site}}}:* ~flare:{{{site}.*}}:* ~flare:{{*}}:inbox:{site}"
    own += f" ~flare:{{*}}:client:{site} ~flare:{{*}}:heartbeat:{site}"
    read = "%R~flare:{*}:cell %R~flare:{*}:heartbeat %R~flare:{*}:job"
    adds = "(+sadd +pttl +pexpire ~flare:{*}:senders ~flare:{*}:clients)"
    return f"{own} {read} resetchannels &flare:{{*}}:doorbell -@all {COMMANDS} {adds}"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with EmbeddedServer() as server:
        with redis.Redis.from_url(server.url) as admin:
            for site in ("site-1", "site-2"):
                words = rules(site).partition(" (")
                admin.execute_command(
                    "ACL", "SETUSER", site, "on", ">secret", *words[0].split(), words[1].strip() + words[2]
                )
        yield server.url


@pytest.fixture
def server(url: str) -> Iterator[Cells]:
    """Cells of a user that may do everything."""
    with redis.Redis.from_url(url) as admin:
        admin.flushall()
    with cells_at(url, NAMESPACE) as cells:
        yield cells


@pytest.fixture
def site_2(url: str) -> Iterator[Any]:
    with redis.Redis.from_url(url, username="site-2", password="secret") as client:
        yield client


def request(origin: str, request_id: str = "r1") -> list[Any]:
    return Envelope(kind=REQUEST, id=request_id, attempt=1, channel="c", topic="do", origin=origin).fields()


def test_sites_talk_to_the_server_with_rights_to_their_own_inboxes(server: Cells, url: str) -> None:
    server.make("server.job", {"echo": lambda request: ("OK", None, request.data)})
    for site in ("site-1", "site-2"):
        with cells_at(url, NAMESPACE, ConnectionOptions(username=site, password="secret")) as cells:
            cells.scan = lambda: ()
            cell = cells.make(f"{site}.job")
            assert cell.send_request("c", "echo", "server.job", None, site, timeout=30).data == site


@pytest.mark.parametrize(
    "command",
    [
        "XADD flare:{server}:inbox:site-1 * a b",
        "XDEL flare:{server}:inbox:site-1 1-1",
        "XADD flare:{server}:inbox * a b",
        "XADD flare:{site-1}:inbox:server * a b",
        "XADD flare:{site-1}:inbox:site-1 * a b",
        "XRANGE flare:{site-1}:inbox:server - +",
        "DEL flare:{server}:senders",
        "SREM flare:{server}:senders site-1",
        "SMEMBERS flare:{server}:senders",
        "HSET flare:{server}:cell epoch 9999999999999",
        "SET flare:{server}:heartbeat x",
        "DEL flare:{server}:dead",
        "SET flare:{server.job}:client:site-1 {}",
        "SET flare:{server.job}:heartbeat:site-1 {}",
        "SREM flare:{server.job}:clients site-1",
        "HSET flare:{server.job}:job status ENDED",
    ],
)
def test_redis_refuses_a_site_what_is_anothers(server: Cells, site_2: Any, command: str) -> None:
    server.make("server")
    words = command.split()
    with pytest.raises(redis.exceptions.NoPermissionError):
        site_2.execute_command(*words)
    script = "return redis.call(unpack(ARGV))"
    with pytest.raises(redis.exceptions.ResponseError, match=r"permissions|can't access|can't run"):
        site_2.eval(script, 0, *words)


def test_a_site_takes_part_in_a_job_by_its_own_keys(server: Cells, url: str, site_2: Any) -> None:
    keys, policy = Keys(NAMESPACE).job("server.job"), server.settings.policy
    cell = server.make("server.job")
    lease = Lease(instance=cell.instance, epoch=cell.epoch, run="r1")
    options = ConnectionOptions(username="site-2", password="secret")
    with Server.connect(url, options) as restricted, server.server.borrow("any") as full:
        members = Members(keys, policy)
        members.begin(full, lease)
        with restricted.borrow("any") as own:
            joined = members.join(own, Lease.of_this_process("site-2"), "site-2.job", ttl_ms=9000, beating=True)
            assert joined.status == "OK"
            with pytest.raises(ServerError, match="NOPERM"):
                members.join(own, Lease.of_this_process("site-1"), "site-2.job", beating=True)
        assert [(member.name, member.alive) for member in members.list_members(full, lease).members] == [
            ("site-2", True)
        ]
        members.forget(full)


def test_a_site_that_claims_to_be_another_is_found_out(server: Cells, site_2: Any) -> None:
    handler = Parking()
    cell = server.make("server", {"do": handler})
    fields = request("site-1")
    pairs = dict(zip(fields[::2], fields[1::2], strict=True))
    site_2.xadd("flare:{server}:inbox:site-2", pairs)
    site_2.sadd("flare:{server}:senders", "site-2")
    site_2.pexpire("flare:{server}:inbox:site-2", 9000)
    site_2.pexpire("flare:{server}:senders", 9000)
    site_2.publish("flare:{server}:doorbell", "site-2")
    wait_until(lambda: server.dead("server"))
    assert "site-2 has written it, in the name of site-1" in server.dead("server")[0]["reason"]
    assert cell.faults.totals == {"sent in the name of another": 1}
    assert not handler.parked


def test_who_makes_something_else_of_its_inbox_harms_itself_alone(server: Cells, site_2: Any) -> None:
    handler = Parking()
    cell = server.make("server", {"do": handler})
    for site in ("site-1", "site-2"):
        server.write("server", request(site), by=site)
    handler.wait(2)
    site_2.delete("flare:{server}:inbox:site-2")
    site_2.set("flare:{server}:inbox:site-2", "no stream", px=9000)
    for parked in handler.parked:
        parked.reply()
    server.write("server", request("site-1", "r2"), by="site-1")
    assert handler.wait(3).id == "r2"
    assert cell.faults.totals == {"inbox that is no stream": 1}
    handler.parked[-1].reply()
    wait_until(lambda: not server.entries("server"))
    server.write("server", request("site-2", "r2"), by="site-2")
    assert handler.wait(4).origin == "site-2"
