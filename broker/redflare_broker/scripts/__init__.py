"""Every change of state in Redis: one Lua script for each atomic step, and one typed method for each script.

Way in: ``LinkScripts``, ``CellScripts``, ``JobScripts``, ``StoreScripts``, one for each folder of ``lua/``. A script
answers the same when it is run twice, so a caller that lost the reply runs it again; ``task_states`` is the table of
what a step may do to a task. The head of each ``.lua`` file gives its keys, arguments and answers.

May import: transport, wire, util and the root.
"""
