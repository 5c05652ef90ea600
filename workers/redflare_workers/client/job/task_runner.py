"""``TaskRunner``: runs one task at a site: filters, the executor, filters. After NVFlare's ClientRunner.

No I/O and no threads. An error of a filter or an executor becomes a return code that the workflow sees, and a line in
the log that names the task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from typing import Final

from redflare_workers.apis.event_type import EventType
from redflare_workers.apis.executor import Executor
from redflare_workers.apis.filter import Filter
from redflare_workers.apis.fl_component import FLComponent
from redflare_workers.apis.fl_constant import FLContextKey, ReturnCode
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.fl_exception import UnsafeJobError
from redflare_workers.apis.shareable import ReservedHeaderKey, Shareable, make_reply
from redflare_workers.apis.signal import Signal

#: The name of the executor for all tasks that have none.
ANY_TASK = "*"
#: Characters of the reason in a reply.
_LONGEST: Final = 1000


class TaskRunner(FLComponent):
    """Runs tasks, one at a time.

    Args:
        executors: by task name; names with ``*``, ``?`` or ``[...]`` are patterns, for tasks that are not named.
        task_filters: process the task's Shareable first.
        result_filters: process the result last.
    """

    def __init__(
        self, executors: Mapping[str, Executor], task_filters: Sequence[Filter], result_filters: Sequence[Filter]
    ) -> None:
        super().__init__()
        self._executors = dict(executors)
        self._task_filters = list(task_filters)
        self._result_filters = list(result_filters)

    def passes_encoded(self, task_name: str) -> bool:
        """Whether no filter or executor reads this task's data, so that it can be forwarded undecoded."""
        executor = self._executor(task_name)
        return executor is not None and executor.accepts_encoded and not self._task_filters and not self._result_filters

    def release_result(self, task_name: str, *, handed_over: bool) -> None:
        """Tell the executor whether a result that it returned undecoded was handed over."""
        release = getattr(self._executor(task_name), "release_result", None)
        if release is not None:
            release(handed_over)

    def run(self, task_name: str, task_id: str, data: Shareable, fl_ctx: FLContext, abort: Signal) -> Shareable:
        """Run a task.

        Returns:
            its result; or a reply with TASK_UNKNOWN, TASK_DATA_FILTER_ERROR, EXECUTION_EXCEPTION, EMPTY_RESULT,
            EXECUTION_RESULT_ERROR, TASK_RESULT_FILTER_ERROR, TASK_ABORTED or UNSAFE_JOB.
        """
        executor = self._executor(task_name)
        if executor is None:
            self.log_error(fl_ctx, f"task {task_name!r} {task_id}: this site has no executor for it")
            return _failed(ReturnCode.TASK_UNKNOWN, f"the site has no executor for task {task_name!r}")
        for key, value in (
            (FLContextKey.TASK_NAME, task_name),
            (FLContextKey.TASK_ID, task_id),
            (FLContextKey.TASK_DATA, data),
        ):
            fl_ctx.set_prop(key, value, private=True, sticky=False)
        if (peer := fl_ctx.get_peer_context()) is not None:
            data.set_peer_props(peer.get_all_public_props())
        try:
            result = self._carry_out(executor, task_name, data, fl_ctx, abort)
        except UnsafeJobError as error:
            self.log_exception(fl_ctx, f"task {task_name!r}: the job is unsafe: {error}")
            executor.unsafe = True
            fl_ctx.set_job_is_unsafe()
            result = _failed(ReturnCode.UNSAFE_JOB, str(error))
        result.set_header(ReservedHeaderKey.TASK_NAME, task_name)
        result.set_header(ReservedHeaderKey.TASK_ID, task_id)
        return result

    def _carry_out(
        self, executor: Executor, task_name: str, data: Shareable, fl_ctx: FLContext, abort: Signal
    ) -> Shareable:
        filtered, why = self._filter(self._task_filters, "TASK_DATA_FILTER", data, fl_ctx)
        if filtered is None:
            return _failed(ReturnCode.TASK_DATA_FILTER_ERROR, why)
        result = self._execute(executor, task_name, filtered, fl_ctx, abort)
        if (jar := data.get_cookie_jar()) is not None and result.get_cookie_jar() is None:
            # the server gets its cookies back
            result.set_cookie_jar(jar)
        sent, why = self._filter(self._result_filters, "TASK_RESULT_FILTER", result, fl_ctx)
        return _failed(ReturnCode.TASK_RESULT_FILTER_ERROR, why) if sent is None else sent

    def _executor(self, task_name: str) -> Executor | None:
        named = self._executors.get(task_name)
        if named is not None:
            return named
        for pattern, executor in self._executors.items():
            if pattern != ANY_TASK and fnmatch(task_name, pattern):
                return executor
        return self._executors.get(ANY_TASK)

    def _execute(
        self, executor: Executor, task_name: str, data: Shareable, fl_ctx: FLContext, abort: Signal
    ) -> Shareable:
        self.fire_event(EventType.BEFORE_TASK_EXECUTION, fl_ctx)
        try:
            result = executor.execute(task_name, data, fl_ctx, abort)
        except UnsafeJobError:
            raise
        except (Exception, SystemExit) as error:
            self.log_exception(fl_ctx, f"executor {executor.name} failed on task {task_name!r}: {error}")
            result = _failed(ReturnCode.EXECUTION_EXCEPTION, f"{type(error).__name__}: {error}")
        finally:
            # free the model
            fl_ctx.set_prop(FLContextKey.TASK_DATA, None, private=True, sticky=False)
        if isinstance(result, Shareable):
            fl_ctx.set_prop(FLContextKey.TASK_RESULT, result, private=True, sticky=False)
            self.fire_event(EventType.AFTER_TASK_EXECUTION, fl_ctx)
        if executor.unsafe or fl_ctx.is_job_unsafe():
            self.log_error(fl_ctx, f"task {task_name!r}: the job is unsafe")
            return _failed(ReturnCode.UNSAFE_JOB, "the executor says that the job is unsafe")
        if result is None:
            self.log_error(fl_ctx, why := f"executor {executor.name} returned nothing for task {task_name!r}")
            return _failed(ReturnCode.EMPTY_RESULT, why)
        if not isinstance(result, Shareable):
            kind = type(result).__name__
            why = f"executor {executor.name} returned a {kind} for {task_name!r}, not a Shareable"
            self.log_error(fl_ctx, why)
            return _failed(ReturnCode.EXECUTION_RESULT_ERROR, why)
        return result

    def _filter(
        self, filters: Sequence[Filter], stage: str, shareable: Shareable, fl_ctx: FLContext
    ) -> tuple[Shareable | None, str]:
        """Apply a chain of filters; return None and why if one of them failed."""
        self.fire_event(getattr(EventType, f"BEFORE_{stage}"), fl_ctx)
        for each in filters:
            try:
                shareable = each.process(shareable, fl_ctx)
            except UnsafeJobError:
                raise
            except (Exception, SystemExit) as error:
                self.log_exception(fl_ctx, f"filter {each.name} failed: {error}")
                return None, f"filter {each.name} failed: {type(error).__name__}: {error}"
            if not isinstance(shareable, Shareable):
                why = f"filter {each.name} returned a {type(shareable).__name__}, not a Shareable"
                self.log_error(fl_ctx, why)
                return None, why
        kind = FLContextKey.TASK_DATA if stage == "TASK_DATA_FILTER" else FLContextKey.TASK_RESULT
        fl_ctx.set_prop(kind, shareable, private=True, sticky=False)
        self.fire_event(getattr(EventType, f"AFTER_{stage}"), fl_ctx)
        return shareable, ""


def _failed(rc: str, why: str) -> Shareable:
    """Return a reply that also says why; the workflow tells it to those who wait for the job."""
    return make_reply(rc, {ReservedHeaderKey.ERROR: why[:_LONGEST]})
