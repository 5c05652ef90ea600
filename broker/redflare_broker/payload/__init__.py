"""Payloads too large for an entry: how they are stored beside it, fetched, renewed and removed.

Way in: ``redis_store`` (chunks in Redis, the one store so far) and ``encoded_payload.EncodedPayload``, a payload as it
is on the wire, for a process that passes it on without decoding it. A second store is a new module here.

May import: config, scripts, transport, wire, util and the root.
"""
