"""Artifacts on disk: safetensors for numbers, JSON for everything else; nothing is unpickled.

An artifact is a folder that is written once and renamed into place by the store.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mpcwdwm.artifact_names import CURVE, MANIFEST, WEIGHTS
from mpcwdwm.errors import UserError

__all__ = ["read_manifest", "read_weights", "write_artifact"]


def write_artifact(
    folder: Path,
    tensors: Mapping[str, Tensor],
    manifest: Mapping[str, Any],
    curve: Sequence[Mapping[str, Any]],
) -> None:
    """Write weights, manifest and training curve into an existing folder."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS)
    (folder / CURVE).write_text(json.dumps(list(curve), indent=1) + "\n", encoding="utf-8")
    text = json.dumps(dict(manifest), indent=1, sort_keys=True, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of an artifact.

    Raises:
        UserError: there is none, or it is not JSON.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(manifest, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError, RecursionError) as error:  # text that is not UTF-8 included
        raise UserError(f"{path}: not a readable manifest ({error}); delete the folder and run again") from None
    return manifest


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of an artifact.

    Raises:
        UserError: the file is missing or damaged.
    """
    path = folder / WEIGHTS
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: damaged weights ({error}); delete the folder and run again") from None
