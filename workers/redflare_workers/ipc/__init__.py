"""A client job's side of the link to its agent: what hands tasks to the process that trains.

Way in: ``exchanger.IPCExchanger``, as a plain object or as an executor. ``agent_executor`` is the executor below it and
below NVFlare's; ``shared_connection`` is what the exchangers of a process have in common; ``translation`` turns a
Shareable into a task and a result into a Shareable.

May import: engine, apis, util and the broker.
"""
