"""The audit log of a server or a site: what was asked for, decided and done, in a file whose entries are chained.

Start at: ``audit_log.AuditLog.record``, by which a process writes an entry; ``audit.Audit`` is what others hold, and
keeps nothing where there is no workspace. ``entry`` is one entry, ``audit_files`` are the files, ``chain`` finds the
first entry that is not as it was written, ``refused_messages`` bounds what strangers can cause to be written.

May import: util and the broker.
"""
