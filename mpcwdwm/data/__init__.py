"""Datasets and tasks: where the data lie, how they are read, what was published for them."""

from mpcwdwm.data.audit import Audit, audit
from mpcwdwm.data.dataset import Dataset, read_dataset
from mpcwdwm.data.download import download, mirrors_from_settings
from mpcwdwm.data.fingerprint import sha256_of
from mpcwdwm.data.hyperparameters import published_config
from mpcwdwm.data.tasks import TASKS, Task, custom_task, dataset_path, find_task

__all__ = [
    "TASKS",
    "Audit",
    "Dataset",
    "Task",
    "audit",
    "custom_task",
    "dataset_path",
    "download",
    "find_task",
    "mirrors_from_settings",
    "published_config",
    "read_dataset",
    "sha256_of",
]
