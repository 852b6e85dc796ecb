"""Small parts of the bundled dataset, and every component in settings that train in a moment."""

import dataclasses

import torch

from mpcwdwm.components import COMPONENTS, Component, ComponentConfig, component_class, component_config
from mpcwdwm.data import Dataset

BUNDLED = "hopper-medium-replay-mini-ppo-v0"
KINDS = {  # of world models, by the name tests show: the settings that make them
    "diffusion": {"kind": "diffusion", "denoising_steps": 3},
    "respaced": {"kind": "diffusion", "denoising_steps": 3, "training_steps": 20, "ema": 0.9},
    "flow": {"kind": "flow", "denoising_steps": 3, "ema": 0.9},
    "meanflow": {"kind": "meanflow"},
    "mlp": {"kind": "mlp", "ensemble": 2},
    "mlp-mean": {"kind": "mlp", "ensemble": 2, "probabilistic": False, "member": "mean", "ema": 0.9},
}
PARTS = {  # every component, and the world model in its other kinds: name → (component, settings)
    **{name: (name, {}) for name in COMPONENTS},
    **{f"world_model-{name}": ("world_model", KINDS[name]) for name in ("flow", "meanflow", "mlp")},
    "value": ("value", {"episodes": 20, "length": 12, "halt": 4.0, "ensemble": 2}),  # some end before
    "mopo": ("mopo", {"rollout_length": 3, "real_share": 0.25}),
    "improved": ("improved", {"states": 60, "imagined": 5, "length": 6}),
    "diffuser": (
        "diffuser",
        {"horizon": 8, "multipliers": "1,2", "denoising_steps": 4, "ema_start": 20},
    ),
}
BASE = {"world_model": KINDS["mlp"], "value": {"steps": 500}}  # of what others are built on, beside a small width


def part_of(dataset: Dataset, start: int, stop: int) -> Dataset:
    """Rows start..stop as a dataset of its own (episodes at the cut keep their flags)."""
    per_row = {
        field.name: getattr(dataset, field.name)[start:stop]
        for field in dataclasses.fields(dataset)
        if getattr(getattr(dataset, field.name), "shape", (0,))[:1] == dataset.reward.shape[:1]
    }
    return dataclasses.replace(dataset, sha256=f"{dataset.sha256}-{start}-{stop}", **per_row)


def bases_of(config: ComponentConfig, data: Dataset | list[Dataset], seeds: list[int]) -> dict[str, Component]:
    """What `config` builds on, small, untrained but in the data's units; one dataset for all members, or one each."""
    datasets, bases = [data] * len(seeds) if isinstance(data, Dataset) else data, {}
    for name in config.builds_on:
        own = component_config(name, {}, {"hidden_dim": 8, **BASE.get(name, {})})
        bases[name] = component_class(name, own)(own, datasets[0].obs_dim, datasets[0].act_dim, seeds)
        for member, dataset in enumerate(datasets):
            bases[name].fit(member, dataset, torch.from_numpy(dataset.has_next_obs.nonzero()[0]))
    return bases
