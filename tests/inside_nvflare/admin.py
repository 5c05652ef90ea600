"""An administrator's session with a system of NVFlare; it runs in a process of its own, as its console does."""

from __future__ import annotations

from nvflare.fuel.flare_api.flare_api import new_secure_session


class Admin:
    """The calls of a session that these tests need, with values that can be sent to another process."""

    def __init__(self, user: str, kit: str, timeout: float) -> None:
        self._session = new_secure_session(user, kit, timeout=timeout)

    def sites(self) -> int:
        """How many are registered."""
        return len(self._session.get_system_info().client_info)

    def submit(self, folder: str) -> str:
        return str(self._session.submit_job(folder))

    def status(self, job_id: str) -> str:
        return str(self._session.get_job_meta(job_id)["status"])

    def abort(self, job_id: str) -> None:
        self._session.abort_job(job_id)

    def download(self, job_id: str) -> str:
        """Download a job's results; return the folder."""
        return str(self._session.download_job_result(job_id))

    def close(self) -> None:
        self._session.close()
