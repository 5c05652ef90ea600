"""Events that the system fires; a component gets them in ``handle_event``. Names and values are NVFlare's."""

from __future__ import annotations

from typing import Final


class EventType:
    """Built-in events, in the order in which a run meets them."""

    SYSTEM_BOOTSTRAP: Final = "_system_bootstrap"
    SYSTEM_START: Final = "_system_start"
    SYSTEM_END: Final = "_system_end"

    ABOUT_TO_START_RUN: Final = "_about_to_start_run"
    START_RUN: Final = "_start_run"
    START_WORKFLOW: Final = "_start_workflow"
    END_WORKFLOW: Final = "_end_workflow"
    CHECK_END_RUN_READINESS: Final = "_check_end_run_readiness"
    ABOUT_TO_END_RUN: Final = "_about_to_end_run"
    END_RUN: Final = "_end_run"
    SWAP_IN: Final = "_swap_in"
    SWAP_OUT: Final = "_swap_out"

    ABORT_TASK: Final = "_abort_task"
    #: A component cannot continue; the run ends. ``system_panic`` fires it.
    FATAL_SYSTEM_ERROR: Final = "_fatal_system_error"

    JOB_DEPLOYED: Final = "_job_deployed"
    JOB_STARTED: Final = "_job_started"
    JOB_COMPLETED: Final = "_job_completed"
    JOB_ABORTED: Final = "_job_aborted"
    JOB_CANCELLED: Final = "_job_cancelled"

    CLIENT_DISCONNECTED: Final = "_client_disconnected"
    CLIENT_RECONNECTED: Final = "_client_reconnected"

    BEFORE_PULL_TASK: Final = "_before_pull_task"
    AFTER_PULL_TASK: Final = "_after_pull_task"
    BEFORE_PROCESS_TASK_REQUEST: Final = "_before_process_task_request"
    AFTER_PROCESS_TASK_REQUEST: Final = "_after_process_task_request"
    BEFORE_TASK_DATA_FILTER: Final = "_before_task_data_filter"
    AFTER_TASK_DATA_FILTER: Final = "_after_task_data_filter"
    BEFORE_TASK_EXECUTION: Final = "_before_task_execution"
    AFTER_TASK_EXECUTION: Final = "_after_task_execution"
    BEFORE_TASK_RESULT_FILTER: Final = "_before_task_result_filter"
    AFTER_TASK_RESULT_FILTER: Final = "_after_task_result_filter"
    BEFORE_SEND_TASK_RESULT: Final = "_before_send_task_result"
    AFTER_SEND_TASK_RESULT: Final = "_after_send_task_result"
    BEFORE_PROCESS_SUBMISSION: Final = "_before_process_submission"
    AFTER_PROCESS_SUBMISSION: Final = "_after_process_submission"
    BEFORE_PROCESS_RESULT_OF_UNKNOWN_TASK: Final = "_before_process_result_of_unknown_task"
    AFTER_PROCESS_RESULT_OF_UNKNOWN_TASK: Final = "_after_process_result_of_unknown_task"

    CRITICAL_LOG_AVAILABLE: Final = "_critical_log_available"
    DEBUG_LOG_AVAILABLE: Final = "_debug_log_available"
    ERROR_LOG_AVAILABLE: Final = "_error_log_available"
    EXCEPTION_LOG_AVAILABLE: Final = "_exception_log_available"
    INFO_LOG_AVAILABLE: Final = "_info_log_available"
    WARNING_LOG_AVAILABLE: Final = "_warning_log_available"

    # Of NVFlare's other services; a component may ask for them, and nothing here fires them.
    AFTER_CHECK_CLIENT_RESOURCES: Final = "_after_check_client_resources"
    AFTER_CLIENT_HEARTBEAT: Final = "_after_client_heartbeat"
    AFTER_CLIENT_REGISTER: Final = "_after_client_register"
    AFTER_JOB_LAUNCH: Final = "_after_job_launch"
    AUTHORIZE_COMMAND_CHECK: Final = "_authorize_command_check"
    BEFORE_BUILD_COMPONENT: Final = "_before_build_component"
    BEFORE_CHECK_CLIENT_RESOURCES: Final = "_before_check_client_resources"
    BEFORE_CHECK_RESOURCE_MANAGER: Final = "_before_check_resource_manager"
    BEFORE_CLIENT_HEARTBEAT: Final = "_before_client_heartbeat"
    BEFORE_CLIENT_REGISTER: Final = "_before_client_register"
    BEFORE_JOB_LAUNCH: Final = "_before_job_launch"
    BEFORE_SEND_ADMIN_COMMAND: Final = "_before_send_admin_command"
    CLIENT_HEARTBEAT_PROCESSED: Final = "_client_heartbeat_processed"
    CLIENT_HEARTBEAT_RECEIVED: Final = "_client_heartbeat_received"
    CLIENT_QUIT: Final = "_client_quit"
    CLIENT_REGISTER_PROCESSED: Final = "_client_register_processed"
    CLIENT_REGISTER_RECEIVED: Final = "_client_register_received"
    DEPLOY_JOB_TO_CLIENT: Final = "_deploy_job_to_client"
    DEPLOY_JOB_TO_SERVER: Final = "_deploy_job_to_server"
    POST_TASK_ASSIGNMENT_SENT: Final = "_post_task_assignment_sent"
    POST_TASK_RESULT_RECEIVED: Final = "_post_task_result_received"
    PRE_RUN_RESULT_AVAILABLE: Final = "_pre_run_result_available"
    SUBMIT_JOB: Final = "_submit_job"
    TASK_ASSIGNMENT_SENT: Final = "_task_assignment_sent"
    TASK_RESULT_RECEIVED: Final = "_task_result_received"
