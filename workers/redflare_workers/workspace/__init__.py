"""The folders of a server or a site: settings, the folder of one run, and the lock that admits one process at a time.

Way in: ``site_settings.load_site_settings``, ``run_folder.RunFolder``, ``workspace_lock.WorkspaceLock``.

May import: util and the broker.
"""
