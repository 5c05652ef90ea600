"""What a site tells the server with its requests."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

from redflare_broker.cell.request import Reply
from redflare_broker.payload.encoded_payload import EncodedPayload
from redflare_broker.wire.task_entry import BlobRef
from redflare_workers.apis.shareable import Shareable
from redflare_workers.client.job.server_requests import ServerRequests
from redflare_workers.protocol.job_messages import Credentials, TaskReply
from redflare_workers.protocol.shareable_codec import from_message, to_message


def test_a_lost_payload_is_told_until_the_next_task_is_there_and_not_again() -> None:
    sent: list[str] = []
    task = TaskReply(task_name="train", task_id="t", message=to_message(Shareable())[0]).to_meta()
    replies = [Reply("EXECUTION_EXCEPTION", {}), Reply("OK", task), Reply("OK", task)]

    def send_request(channel: str, topic: str, target: str, meta: dict[str, Any], *args: Any, **options: Any) -> Reply:
        sent.append(f"{meta.get('lost', '')} {meta.get('payload', '')}")
        return replies.pop(0)

    host: Any = SimpleNamespace(cell=SimpleNamespace(send_request=send_request))
    membership: Any = SimpleNamespace(credentials=Credentials(client="site-1", instance="h:1:a", epoch=1))
    over = threading.Event()
    over.set()
    server = ServerRequests(host, "server.job", membership, over, lambda: "", lambda outcome: None)
    payload = EncodedPayload(b"{}", blob=BlobRef(prefix="flare:{server.job}:blob:x", chunk=10, sizes=(10,)))
    server.report_lost("t", from_message(to_message(Shareable())[0], payload))
    asked = [server.get_task() is not None for _ in range(3)]
    told = "t flare:{server.job}:blob:x"
    assert list(zip(asked, sent, strict=True)) == [(False, told), (True, told), (True, " ")]
