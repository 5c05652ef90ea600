"""The server's task communicator: which client may have which task, when a task is done, and its callbacks.

Start at: ``wf_comm_server.WFCommServer``, whose docstring lists the parts. It decides and knows no transport: who may
have a task and when it is done are pure functions of ``managers/`` (broadcast, send, relay).

May import: ``communicator.managers``, apis, util and the broker's util.
"""
