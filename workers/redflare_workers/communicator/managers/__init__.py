"""The task managers: who may have a task now, and when it is done. Decisions only: no I/O, no lock, no clock.

Way in: ``task_manager.TaskManager``, the interface. ``simple`` manages broadcasts and sends, ``relay`` relays.

May import: apis.
"""
