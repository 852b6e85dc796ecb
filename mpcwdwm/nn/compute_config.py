"""The section ``compute`` of a sweep. It imports no torch: a YAML is checked before that is loaded."""

from typing import Literal

from mpcwdwm.config import Config, Flag, setting

__all__ = ["ComputeConfig"]


class ComputeConfig(Config):
    """How the work is run. Belongs to the machine, not to the method."""

    capture: Literal["auto", "graph", "compile", "eager"] = setting(
        "auto", "repeated work: a CUDA graph, torch.compile, or eager; auto chooses what measures best"
    )
    products: Literal["auto", "mkl", "onednn"] = setting(
        "auto", "library of large matrix products on a CPU; auto takes the faster one, measured once per machine"
    )
    tf32: Flag = setting(False, "matrix products in TF32 on a GPU: faster, with 10 bits of mantissa")
