"""Messages between the processes of a federation: one frozen dataclass for each, with its channel and topic.

What ``docs/protocol.md`` describes is below: the broker's ``wire`` and ``scripts``.

Start at: ``job_messages`` between a server's and a site's job process, ``parent_messages`` between server and sites,
``job_control`` between a parent and the job's process that it has started. ``message`` has their base: it turns a
message into a request's meta and back, and registers a handler, which gets the dataclass. ``shareable_codec`` turns a
Shareable into a message's meta and data, ``job_outcome`` is how a job ended.

May import: apis, util and the broker.
"""
