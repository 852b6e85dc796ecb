"""What Ray grants a process."""

from dataclasses import dataclass

__all__ = ["Grant"]


@dataclass(frozen=True)
class Grant:
    """Resources of one process."""

    cpus: float = 1.0  # processor cores; also its number of threads
    gpus: float = 0.0  # GPUs, or the fraction of one
    memory: int = 0  # bytes of the machine's; 0: Ray keeps no account of it
    slots: float = 1.0  # how many of the slots of a pool it takes

    @property
    def device(self) -> str:
        """Return what the process computes on."""
        return "cuda" if self.gpus else "cpu"

    @property
    def threads(self) -> int:
        """Return how many threads it has."""
        return max(1, int(self.cpus))
