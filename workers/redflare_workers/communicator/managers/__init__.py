"""The task managers: who may have a task now, and when it is done. Decisions only: no I/O, no lock, no clock.

Start at: ``task_manager.TaskManager``, the interface. ``simple`` manages broadcasts and sends, ``relay`` relays.

May import: apis.
"""
