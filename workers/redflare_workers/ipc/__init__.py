"""A client job's side of the link to its agent: the executors that hand tasks to the process that trains.

Start at: ``exchanger.IPCExchanger``, as a plain object or as an executor. ``agent_executor`` is the base of it and of
NVFlare's; ``translation`` turns a Shareable into a task and a result into a Shareable.

May import: messaging, apis, util, the root and the broker.
"""
