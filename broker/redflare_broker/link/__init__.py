"""The two ends of a link: a client job (CJ) that assigns tasks and an agent that carries them out.

Way in: ``agent_link.AgentLink`` and ``cj_link.CJLink``, with ``submission`` and ``exchange`` for one task's way. Both
hold a ``session.Session``: who we are, our epoch, and the connection that survives. ``liveness`` decides from ages
alone whether the peer is there; ``dead_letters`` keeps what could not be read.

May import: runtime, payload, config, scripts, transport, wire, util and the root; not cells, jobs or inspection.
"""
