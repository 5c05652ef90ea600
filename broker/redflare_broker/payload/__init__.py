"""Payloads too large for an entry: how they are stored beside it, fetched, renewed and removed.

Start at: ``payload_store.payloads_of`` returns the ``PayloadStore`` of a Redis; ``redis_store``, the one store so far,
keeps chunks in Redis. ``encoded_payload.EncodedPayload`` is a payload as it is on the wire, for a process that passes
it on without decoding it.

A second store (S3, a disk) is one new module here: a class with the methods of ``PayloadStore``. Its setting is a field
of ``ConnectionOptions``, which each ``Server`` has; ``payloads_of`` chooses by it. Once two stores are in use at the
same time, ``BlobRef`` (``wire.task_entry``) needs a field with the store's name. The files of the job store are
streamed to chunks in Redis by ``job_store.job_files``, whatever store the payloads have.

May import: runtime, scripts, transport, wire, util and the root.
"""
