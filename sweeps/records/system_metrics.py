"""Measurements of the driver's machine while a sweep runs, as metrics of its parent run: MLflow's system metrics."""

from typing import Any

__all__ = ["SystemMetrics"]


class SystemMetrics:
    """Logs processor, memory, disk, network and, where MLflow finds its library, GPU in a thread, from now on.

    A run that is continued goes on at its last step.

    Args:
        uri: of MLflow.
        run_id: of the run, which has to be RUNNING.
        seconds: between two measurements.
    """

    def __init__(self, uri: str, run_id: str, seconds: float) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self._monitor: Any = SystemMetricsMonitor(
            run_id, sampling_interval=seconds, resume_logging=True, tracking_uri=uri
        )
        self._monitor.start()

    def end(self) -> None:
        """Log what was measured and is not logged yet, and stop."""
        self._monitor.finish()
