"""The two ends of a link: a client job (CJ) that assigns tasks and an agent that carries them out.

Start at: ``agent_link.AgentLink`` and ``cj_link.CJLink``, with ``submission`` and ``exchange`` for one task's way. Each
holds a ``session.Session`` (who it is, its epoch, the connection that survives) and ``payloads.LinkPayloads``;
``endpoint.LinkEndpoint`` is their common base: heartbeats and dead letters. ``liveness`` decides from ages alone
whether the peer is there; ``dead_letters`` reads and replays the entries that could not be read; ``supervision`` is
what the supervisor of an agent's process tells.

May import: payload, runtime, scripts, config, transport, wire, util and the root; not cells, jobs or inspection.
"""
