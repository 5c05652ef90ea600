"""Constants that components of a job share: return codes, keys of contexts and headers, file names of a job.

Names and values are those of NVFlare's ``fl_constant``, so that components written for it move by changing imports.
Only what this project uses, or hands to a component, is here.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class ReturnCode:
    """Return codes of replies, in the header ``ReservedKey.RC``."""

    OK: Final = "OK"

    BAD_PEER_CONTEXT: Final = "BAD_PEER_CONTEXT"
    BAD_REQUEST_DATA: Final = "BAD_REQUEST_DATA"
    BAD_TASK_DATA: Final = "BAD_TASK_DATA"
    COMMUNICATION_ERROR: Final = "COMMUNICATION_ERROR"
    EARLY_TERMINATION: Final = "EARLY_TERMINATION"
    EMPTY_RESULT: Final = "EMPTY_RESULT"
    ERROR: Final = "ERROR"
    EXECUTION_EXCEPTION: Final = "EXECUTION_EXCEPTION"
    EXECUTION_RESULT_ERROR: Final = "EXECUTION_RESULT_ERROR"
    HANDLER_EXCEPTION: Final = "HANDLER_EXCEPTION"
    MISSING_PEER_CONTEXT: Final = "MISSING_PEER_CONTEXT"
    MODEL_UNRECOGNIZED: Final = "MODEL_UNRECOGNIZED"
    RUN_MISMATCH: Final = "RUN_MISMATCH"
    SERVER_NOT_READY: Final = "SERVER_NOT_READY"
    SERVICE_UNAVAILABLE: Final = "SERVICE_UNAVAILABLE"
    TASK_ABORTED: Final = "TASK_ABORTED"
    TASK_DATA_FILTER_ERROR: Final = "TASK_DATA_FILTER_ERROR"
    TASK_RESULT_FILTER_ERROR: Final = "TASK_RESULT_FILTER_ERROR"
    TASK_UNKNOWN: Final = "TASK_UNKNOWN"
    TASK_UNSUPPORTED: Final = "TASK_UNSUPPORTED"
    TIMEOUT: Final = "TIMEOUT"
    TOPIC_UNKNOWN: Final = "TOPIC_UNKNOWN"
    UNSAFE_JOB: Final = "UNSAFE_JOB"
    VALIDATE_TYPE_UNKNOWN: Final = "VALIDATE_TYPE_UNKNOWN"


class ReservedKey:
    """Keys the system owns; the double underscores keep them apart from a component's own."""

    APP_ROOT: Final = "__app_root__"
    ARGS: Final = "__args__"
    AUDIT_EVENT_ID: Final = "__audit_event_id__"
    AUX_RUNNER: Final = "__aux_runner__"
    CLIENT_NAME: Final = "__client_name__"
    CLIENT_TYPE: Final = "__client_type__"
    COOKIE_JAR: Final = "__cookie_jar__"
    CURRENT_JOB_ID: Final = "__current_job_id__"
    CUSTOM_PROPS: Final = "__custom_props__"
    ENGINE: Final = "__engine__"
    EVENT_DATA: Final = "__event_data__"
    EVENT_ID: Final = "__event_id__"
    EVENT_ORIGIN: Final = "__event_origin__"
    EVENT_ORIGIN_SITE: Final = "__event_origin_site__"
    EVENT_SCOPE: Final = "__event_scope__"
    EXCEPTIONS: Final = "__exceptions__"
    FATAL_SYSTEM_ERROR: Final = "__fatal_system_error__"
    #: Name of this process's site or server.
    IDENTITY_NAME: Final = "__identity_name__"
    IS_RESEND: Final = "__is_resend__"
    JOB_INFO: Final = "__job_info__"
    JOB_IS_UNSAFE: Final = "__job_is_unsafe__"
    #: The job's meta, a dict; a CJ finds the id of its agent in it.
    JOB_META: Final = "__job_meta__"
    MANAGER: Final = "__manager__"
    PEER_CTX: Final = "__peer_ctx__"
    PROCESS_TYPE: Final = "__process_type__"
    RC: Final = "__rc__"
    REPLY: Final = "__reply__"
    RUNNER: Final = "__runner__"
    RUN_ABORT_REQUESTED: Final = "__run_abort_requested__"
    RUN_ABORT_SIGNAL: Final = "__run_abort_signal__"
    #: Id of the job that runs; the name is older than jobs.
    RUN_NUM: Final = "__run_num__"
    SECURE_MODE: Final = "__secure_mode__"
    SHAREABLE: Final = "__shareable__"
    SHARED_FL_CONTEXT: Final = "__shared_fl_context__"
    SIMULATE_MODE: Final = "__simulate_mode__"
    TASK_DATA: Final = "__task_data__"
    TASK_ID: Final = "__task_id__"
    TASK_IS_READY: Final = "__task_is_ready__"
    TASK_NAME: Final = "__task_name__"
    TASK_RESULT: Final = "__task_result__"
    WORKFLOW: Final = "__workflow__"
    WORKSPACE_OBJECT: Final = "__workspace_object__"
    WORKSPACE_ROOT: Final = "__workspace_root__"


class FLContextKey(ReservedKey):
    """Keys of an ``FLContext``'s props: those of the system, and these."""

    COMMUNICATION_ERROR: Final = "Flare_communication_error__"
    CURRENT_RUN: Final = ReservedKey.RUN_NUM
    DISCONNECTED_CLIENT_NAME: Final = "_disconnected_client_name"
    IS_CLIENT_TASK_RESEND: Final = ReservedKey.IS_RESEND
    PEER_CONTEXT: Final = ReservedKey.PEER_CTX
    RECONNECTED_CLIENT_NAME: Final = "_reconnected_client_name"
    SITE_NAME: Final = "__site_name"


class EventScope:
    """Scopes of events."""

    FEDERATION: Final = "federation"
    LOCAL: Final = "local"


class FedEventHeader:
    """Headers of the data of an event for other sites."""

    DIRECTION: Final = "_direction"
    EVENT_ID: Final = "_event_id"
    EVENT_TYPE: Final = "_event_type"
    ORIGIN: Final = "_origin"
    TARGETS: Final = "_targets"
    TIMESTAMP: Final = "_timestamp"


class LogMessageTag:
    """Keys under which a log line is put into the data of a log event."""

    CRITICAL: Final = "log/critical"
    DEBUG: Final = "log/debug"
    ERROR: Final = "log/error"
    EXCEPTION: Final = "log/exception"
    INFO: Final = "log/info"
    WARNING: Final = "log/warning"


class FLMetaKey:
    """Keys of a DXO's meta."""

    CONFIGS: Final = "configs"
    CURRENT_ROUND: Final = "current_round"
    FILTER_HISTORY: Final = "filter_history"
    INITIAL_METRICS: Final = "initial_metrics"
    JOB_ID: Final = "job_id"
    NUM_STEPS_CURRENT_ROUND: Final = "NUM_STEPS_CURRENT_ROUND"
    PROCESSED_ALGORITHM: Final = "PROCESSED_ALGORITHM"
    PROCESSED_KEYS: Final = "PROCESSED_KEYS"
    SITE_NAME: Final = "site_name"
    START_ROUND: Final = "start_round"
    SUBMIT_MODEL_NAME: Final = "submit_model_name"
    TOTAL_ROUNDS: Final = "total_rounds"
    VALIDATE_TYPE: Final = "validate_type"


class ProcessType:
    """Kinds of processes of a federation."""

    CLIENT_JOB: Final = "CJ"
    CLIENT_PARENT: Final = "CP"
    SERVER_JOB: Final = "SJ"
    SERVER_PARENT: Final = "SP"


class JobConstants:
    """File names and meta keys of a job."""

    CLIENT_JOB_CONFIG: Final = "config_fed_client.json"
    JOB_ID: Final = "job_id"
    JOB_IMAGE: Final = "image"
    JOB_LAUNCHER: Final = "job_launcher"
    META: Final = "meta"
    META_FILE: Final = "meta.json"
    SERVER_JOB_CONFIG: Final = "config_fed_server.json"
    SITES: Final = "sites"


class JobMetaKey(StrEnum):
    """Keys of a job's meta, the prop ``FLContextKey.JOB_META`` (NVFlare keeps them in ``job_def``)."""

    JOB_CLIENTS = "job_clients"
    JOB_ID = "job_id"
    JOB_NAME = "name"
    #: Names of the clients without which the job cannot continue.
    MANDATORY_CLIENTS = "mandatory_clients"
    #: How many clients must be alive for the job to continue.
    MIN_CLIENTS = "min_clients"
