"""The table of error replies: what passes by and what is final, in the servers' own words."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest
from redflare_broker.errors import ServerError, Unavailable
from redflare_broker.scripts.script import parse_reply
from redflare_broker.transport.replies import RULES, Kind, ReplyError, require
from redflare_broker.transport.server import Server

AWAY = [
    "LOADING Redis is loading the dataset in memory",
    "READONLY You can't write against a read only replica.",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "NOREPLICAS Not enough good replicas to write.",
    "CLUSTERDOWN The cluster is down",
    "CLUSTERDOWN Hash slot not served",
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "MOVED 3999 127.0.0.1:6381",
    "ASK 3999 127.0.0.1:6381",
    "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "ERR max number of clients reached",
    "ERR max number of clients + cluster connections reached",
]
WAIT = [
    "ERR Function not found",
    "OOM command not allowed when used memory > 'maxmemory'.",
    "OOM command not allowed when used memory > 'maxmemory'. script: 4ca238f611c9d0ae4e9a75a5dbac22aedc1e4e12,"
    " on @user_script:7.",
    "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
    "MISCONF Errors writing to the AOF file: No space left on device",
]
FINAL = [
    "NOPERM User agent has no permissions to run the 'set' command",
    "NOAUTH Authentication required.",
    "WRONGPASS invalid username-password pair or user is disabled.",
    "WRONGTYPE Operation against a key holding the wrong kind of value",
    "CROSSSLOT Keys in request don't hash to the same slot",
    "ERR unknown command 'X', with args beginning with:",
    "ERR max number of arguments",
    "OOMPH is no word of this table",
    "",
]
#: What passes by, of both kinds.
PASSING = AWAY + WAIT


def test_every_line_of_the_table_is_tested() -> None:
    tested = {ReplyError(text).rule.words for text in PASSING + FINAL}
    assert tested == {rule.words for rule in RULES} | {""}


@pytest.mark.parametrize(
    ("kind", "text"), [(kind, text) for kind, texts in zip(Kind, (AWAY, WAIT, FINAL), strict=True) for text in texts]
)
def test_each_reply_has_its_kind(kind: Kind, text: str) -> None:
    assert ReplyError(text).rule.kind is kind


@pytest.mark.parametrize("text", PASSING)
def test_what_passes_is_unavailable_with_its_cause_and_what_to_do(text: str) -> None:
    reply = ReplyError(text)
    with pytest.raises(Unavailable) as caught:
        require(reply, "server")
    assert text.startswith(caught.value.cause)
    assert caught.value.cause
    assert reply.rule.remedy in str(caught.value)


@pytest.mark.parametrize("text", FINAL)
def test_what_is_final_is_a_server_error_with_what_to_do(text: str) -> None:
    reply = ReplyError(text)
    with pytest.raises(ServerError, match="server refused a command") as caught:
        require(reply, "server")
    assert reply.rule.remedy in str(caught.value)


@pytest.mark.parametrize("text", PASSING)
def test_a_script_that_is_refused_for_now_is_unavailable(text: str) -> None:
    with pytest.raises(Unavailable) as caught:
        parse_reply("link/take", ReplyError(text))
    assert text.startswith(caught.value.cause)
    assert caught.value.cause


@pytest.mark.parametrize("text", FINAL)
def test_a_script_that_is_refused_for_good_is_a_server_error(text: str) -> None:
    with pytest.raises(ServerError, match="script link/take failed"):
        parse_reply("link/take", ReplyError(text))


@contextlib.contextmanager
def answering(reply: str) -> Iterator[str]:
    """A server that answers whatever a connection begins with by one error, and hangs up; its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    peer, _ = listener.accept()
                    with peer:
                        peer.recv(1 << 16)
                        peer.sendall(f"-{reply}\r\n".encode())

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"redis://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize("text", AWAY)
@pytest.mark.parametrize("login", ["/0", "/3"], ids=["to a command", "to the login"])
def test_what_passes_passes_at_the_connection_too(text: str, login: str) -> None:
    with (
        answering(text) as url,
        Server.connect(url + login) as server,
        pytest.raises(Unavailable) as caught,
        server.borrow("key") as connection,
    ):
        connection.call("GET", "key")
    assert text.startswith(caught.value.cause)
    assert caught.value.cause


@pytest.mark.parametrize("text", [text for text in FINAL if text.split(" ")[0] in ("NOPERM", "WRONGPASS")])
def test_a_login_that_is_refused_is_final_at_the_first_start(text: str) -> None:
    with answering(text) as url, Server.connect(url + "/3") as server, pytest.raises(ServerError, match="login"):
        server.connection("key")
