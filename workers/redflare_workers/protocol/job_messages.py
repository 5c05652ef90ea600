"""What a job's server and its sites say to each other: topics of their cells and return codes of replies."""

from __future__ import annotations

from typing import Final

#: Channel of the cells' messages about a job.
CHANNEL: Final = "job"

#: Request of a site: the next task for it, answered as soon as there is one.
#: Reply: meta ``task_name``, ``task_id`` (of the client task), ``message`` (see ``shareable_message``), ``props`` (the
#: public props of the server's context, if there are any), and data.
GET_TASK: Final = "get_task"
#: Request of a site: the result of a client task. Meta as in the reply above. Reply: meta ``verdict``.
SUBMIT: Final = "submit"
#: Event of the server: meta ``clients``, by whom the tasks of ``task_ids`` need not be finished any more.
TASK_ENDED: Final = "task_ended"
#: Event of the server: meta ``reason``, for which the job has ended.
JOB_ENDED: Final = "job_ended"

#: Meta of every request: the site, and the hold on its name by which the server knows it.
CLIENT: Final = "client"
INSTANCE: Final = "instance"
EPOCH: Final = "epoch"

#: rc: the job has ended; meta ``reason``.
TOLD_ENDED: Final = "JOB_ENDED"
#: rc: a newer process of this site has taken over.
TOLD_FENCED: Final = "FENCED"
#: rc: the roll does not know this site, or Redis has lost it: join, and ask again.
NOT_JOINED: Final = "NOT_JOINED"
#: rc: the same site has asked again, and this request will not be answered.
SUPERSEDED: Final = "SUPERSEDED"
