"""Checkpoints of a training run: one safetensors file, replaced atomically, with a hash; nothing is unpickled."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

__all__ = ["read_checkpoint", "write_checkpoint"]


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Replace the checkpoint at `path` atomically: a kill leaves the old one or the new one."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(dict(facts))
    # in one entry: safetensors writes several in any order, and the same content is to be the same bytes
    hashed = json.dumps({**facts, "sha256": _digest(contiguous, text)})
    try:
        save_file(contiguous, temporary, metadata={"facts": hashed})
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)  # what a full disk has cut short


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return (tensors, facts), or None where there is no complete checkpoint."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})["facts"])
        tensors, sha256 = load_file(path), facts.pop("sha256")
        return (tensors, facts) if sha256 == _digest(tensors, json.dumps(facts)) else None
    except (SafetensorError, KeyError, json.JSONDecodeError):
        return None  # a damaged checkpoint only costs the time to train anew


def _digest(tensors: Mapping[str, Tensor], facts: str) -> str:
    """Return the hash of a checkpoint's content: what a disk has changed would be learnt from unnoticed."""
    digest = hashlib.sha256(facts.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
