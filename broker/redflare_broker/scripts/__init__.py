"""Every change of state in Redis: one Lua script for each atomic step.

Start at: ``link_scripts``, ``cell_scripts``, ``job_scripts``, ``store_scripts``, one for each folder of ``lua/``. They
declare the scripts; one typed method for each is in ``LinkScripts``, and for the others in those who take the steps:
``Cell``, ``Members`` and ``JobTaskStore``, ``JobStore``. A script answers the same when it is run twice, so a caller
that lost the reply runs it again; ``task_states`` is the table of what a step may do to a task. A ``lease.Lease`` names
the process that takes a step. The head of each ``.lua`` file gives its keys, arguments and answers.

May import: config, transport, wire and the root.
"""

# the library of functions has all scripts, whoever needs it
from . import cell_scripts, job_scripts, link_scripts, store_scripts

__all__ = ["cell_scripts", "job_scripts", "link_scripts", "store_scripts"]
