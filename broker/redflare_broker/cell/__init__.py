"""Requests and replies between the processes of a federation, through inbox streams, one for each sender.

Start at: ``cell.Cell``. ``inbox`` reads and ``outbox`` writes; ``incoming`` answers requests, ``outgoing`` and
``pending`` wait for replies (``direction``: what both need), ``multicast`` asks several cells, ``blocked_calls`` are
the threads that wait. A request stays in its receiver's inbox until it is answered. A sender that is new rings at the
``doorbell``. ``sender_inboxes`` and ``sender_load`` keep the pile of one sender from holding up the others,
``unnamed_payloads`` what was written from staying for nobody.

May import: payload, runtime, scripts, config, transport, wire, util and the root; not links, jobs or inspection.
"""
