"""Messages between the processes of a federation: one frozen dataclass for each, with its channel and topic.

Way in: ``job_messages`` between a server's and a site's job process, ``parent_messages`` between server and sites. A
message turns itself into a request's meta and back; handlers get the dataclass.

May import: apis, util and the broker.
"""
