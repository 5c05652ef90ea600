"""Constants of workflows: headers, cookies and props, names of tasks, default ids. After NVFlare's ``app_constant``.

``NPConstants`` is here as well, which NVFlare has in a module of its own.

Names and values are NVFlare's, so that workflows and executors written for it agree on them with those here.
"""

from __future__ import annotations

from typing import Final


class AppConstants:
    """Keys of Shareables and contexts, and names of tasks.

    The workflows here use few of them: the rounds, the owner of a model.
    """

    AGGREGATION_ACCEPTED: Final = "_aggregation_accepted"
    AGGREGATION_RESULT: Final = "_aggregation_result"
    AGGREGATION_STATS: Final = "_aggregation_stats"
    AGGREGATION_TRIGGERED: Final = "_aggregation_triggered"
    CKPT_PRELOAD_PATH: Final = "ckpt_preload_path"
    CLIENT_UNKNOWN: Final = "unknown"
    CONFIG_PATH: Final = "config_path"
    CONTRIBUTION_CLIENT: Final = "contribution_client"
    #: A cookie: the round, or version, of the model that a site trained.
    CONTRIBUTION_ROUND: Final = "contribution_round"
    CROSS_VAL_CLIENT_MODEL: Final = "_cross_val_client_model_"
    CROSS_VAL_DIR: Final = "cross_site_val"
    CROSS_VAL_MODEL_DIR_NAME: Final = "model_shareables"
    CROSS_VAL_MODEL_PATH: Final = "_cross_val_model_path_"
    CROSS_VAL_RESULTS_DIR_NAME: Final = "result_shareables"
    CROSS_VAL_RESULTS_PATH: Final = "_cross_val_results_path_"
    CROSS_VAL_SERVER_MODEL: Final = "_cross_val_server_model_"
    CURRENT_LEARNING_RATE: Final = "current_learning_rate"
    CURRENT_ROUND: Final = "current_round"
    DATA_CLIENT: Final = "_data_client_"
    DEFAULT_AGGREGATOR_ID: Final = "aggregator"
    DEFAULT_FORMATTER_ID: Final = "formatter"
    DEFAULT_MODEL_DIR: Final = "models"
    DEFAULT_MODEL_LOCATOR_ID: Final = "model_locator"
    DEFAULT_PERSISTOR_ID: Final = "persistor"
    DEFAULT_SHAREABLE_GENERATOR_ID: Final = "shareable_generator"
    DEVICE: Final = "device"
    DXO: Final = "DXO"
    FAILURE: Final = "failure"
    GLOBAL_MODEL: Final = "global_model"
    INITIAL_LEARNING_RATE: Final = "initial_learning_rate"
    IS_BEST: Final = "is_best"
    IS_FIRST_ROUND: Final = "is_first_round"
    JOB_STATS_CLIENT_TELEMETRY: Final = "_job_stats_client_telemetry"
    LOCAL_EPOCHS: Final = "local_epochs"
    LOG_DIR: Final = "model_log_dir"
    META_COOKIE: Final = "cookie"
    META_DATA: Final = "meta_data"
    METRICS_AGGREGATION_INFO: Final = "metrics_aggregation_info"
    METRICS_SELECTION_INFO: Final = "metrics_selection_info"
    MODEL_LOAD_PATH: Final = "_model_load_path"
    MODEL_NAME: Final = "model_name"
    MODEL_NETWORK: Final = "model_network"
    MODEL_OWNER: Final = "_model_owner_"
    MODEL_SAVE_PATH: Final = "_model_save_path"
    MODEL_TO_VALIDATE: Final = "_model_to_validate_"
    MODEL_URL: Final = "model_url"
    MODEL_WEIGHTS: Final = "_model_weights_"
    MULTI_GPU: Final = "multi_gpu"
    MY_RANK: Final = "my_rank"
    NUMBER_OF_GPUS: Final = "number_of_gpus"
    NUM_EPOCHS_CURRENT_ROUND: Final = "num_epochs_current_round"
    NUM_ROUNDS: Final = "num_rounds"
    NUM_TOTAL_EPOCHS: Final = "num_total_epochs"
    NUM_TOTAL_STEPS: Final = "num_total_steps"
    PARTICIPATING_CLIENTS: Final = "_particpating_clients_"
    PHASE: Final = "_phase_"
    PHASE_FINISHED: Final = "_finished_"
    PHASE_INIT: Final = "_init_"
    PHASE_MODEL_VALIDATION: Final = "model_validation"
    PHASE_TRAIN: Final = "train"
    RECEIVED_MODEL: Final = "_receive_model_"
    RECEIVED_MODEL_OWNER: Final = "_receive_model_owner_"
    ROUND: Final = "_round_"
    START_ROUND: Final = "start_round"
    STATUS_DONE: Final = "_done_"
    STATUS_IDLE: Final = "_idle_"
    STATUS_TRAINING: Final = "_training_"
    STATUS_WAIT: Final = "_wait_"
    SUBMIT_MODEL_FAILURE_REASON: Final = "_submit_model_failure_reason"
    SUBMIT_MODEL_NAME: Final = "submit_model_name"
    TASK_CONFIGURE: Final = "configure"
    TASK_END_RUN: Final = "_end_run_"
    TASK_GET_WEIGHTS: Final = "get_weights"
    TASK_PROP_CALLBACK: Final = "_task_callback_"
    TASK_SUBMIT_MODEL: Final = "submit_model"
    TASK_TRAIN: Final = "train"
    TASK_VALIDATION: Final = "validate"
    TRAINING_RESULT: Final = "_training_result_"
    TRAIN_CONTEXT: Final = "train_context"
    TRAIN_SHAREABLE: Final = "_train_shareable_"
    VALIDATE_TYPE: Final = "_validate_type"
    VALIDATION_RESULT: Final = "_validation_result_"
    WAIT_AFTER_MIN_CLIENTS: Final = "wait_after_min_clients"


class AlgorithmConstants:
    """Headers and props of particular algorithms."""

    FEDPROX_MU: Final = "fedprox_mu"
    SCAFFOLD_CTRL_AGGREGATOR_ID: Final = "scaffold_ctrl_aggregator"
    SCAFFOLD_CTRL_DIFF: Final = "scaffold_c_diff"
    SCAFFOLD_CTRL_GLOBAL: Final = "scaffold_c_global"


class ModelName:
    """Names of models that a site can be asked for."""

    BEST_MODEL: Final = "best_model"
    FINAL_MODEL: Final = "final_model"


class ValidateType:
    """Times of a validation."""

    BEFORE_TRAIN_VALIDATE: Final = "before_train_validate"
    MODEL_VALIDATE: Final = "model_validate"


class NPConstants:
    """The key under which NVFlare's numpy components keep the one array of their model."""

    NUMPY_KEY: Final = "numpy_key"


class StatisticsConstants(AppConstants):
    """Names of statistics, of their two rounds, and of the tasks and headers that carry them."""

    STATS_COUNT: Final = "count"
    STATS_FAILURE_COUNT: Final = "failure_count"
    STATS_SUM: Final = "sum"
    STATS_MEAN: Final = "mean"
    STATS_VAR: Final = "var"
    STATS_STDDEV: Final = "stddev"
    STATS_MIN: Final = "min"
    STATS_MAX: Final = "max"
    STATS_HISTOGRAM: Final = "histogram"
    STATS_QUANTILE: Final = "quantile"
    STATS_DIGEST_COORD: Final = "digest_coord"
    STATS_FEATURES: Final = "stats_features"
    STATS_BINS: Final = "bins"
    STATS_BIN_RANGE: Final = "range"
    STATS_TARGET_STATISTICS: Final = "statistics"
    STATS_GLOBAL_COUNT: Final = "global_count"
    STATS_GLOBAL_MEAN: Final = "global_mean"

    FED_STATS_PRE_RUN: Final = "fed_stats_pre_run"
    FED_STATS_TASK: Final = "fed_stats"
    STATISTICS_TASK_KEY: Final = "fed_stats_task_key"
    STATS_1st_STATISTICS: Final = "fed_stats_1st_statistics"
    STATS_2nd_STATISTICS: Final = "fed_stats_2nd_statistics"
    PRE_RUN_RESULT: Final = "fed_stats_pre_run_result"

    GLOBAL: Final = "Global"
    LOCAL: Final = "Local"
    NAME: Final = "Name"

    #: By round: what can be computed in it; the second needs means and ranges of the first.
    ordered_statistics: Final = {
        STATS_1st_STATISTICS: [STATS_COUNT, STATS_SUM, STATS_MEAN, STATS_MIN, STATS_MAX, STATS_QUANTILE],
        STATS_2nd_STATISTICS: [STATS_FAILURE_COUNT, STATS_HISTOGRAM, STATS_VAR, STATS_STDDEV],
    }
