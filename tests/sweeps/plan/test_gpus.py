"""The share of a GPU follows what Ray has, and GPUs that would stay unused are named."""

import pytest
import torch

from sweeps.plan.gpus import gpus_here, idle_gpus
from sweeps.spec.schema import GPU_SHARE, Resources, Share

GIVEN = Resources(actor=Share(gpus=0.5), trial=Share(cpus=2, gpus=0.0), concurrency=3)


def test_unset_shares_follow_the_cluster_and_given_ones_stay() -> None:
    for gpus, share in ((0, 0.0), (4, GPU_SHARE)):
        found = Resources(actor=Share(cpus=2)).given(gpus)
        assert (found.actor, found.trial) == (Share(cpus=2, gpus=share), Share(gpus=share))
    assert GIVEN.given(0) == GIVEN.given(4) == GIVEN


def test_gpus_of_this_machine_are_counted_and_those_of_a_cluster_are_asked_for_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert gpus_here(Resources()) == 2
    assert gpus_here(Resources(address="head:6379")) is None
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert gpus_here(Resources()) is None
    assert gpus_here(Resources(address="local")) == 2


@pytest.mark.parametrize(
    ("resources", "nodes", "lines"),
    [
        (Resources().given(4), [(16, 4)], []),
        (Resources().given(0), [(16, 0)], []),
        (Resources().given(4), [(13, 4)], []),  # 3.25 of 4: no whole GPU is left over
        (Resources().given(4), [(4, 0), (8, 2), (8, 2)], []),
        (
            Resources().given(4),
            [(16, 0), (2, 4)],  # a head's processors are of no use to the GPUs of another node
            [
                f"{what} uses 0.5 of Ray's 4 GPUs: resources.{role}.cpus is 1 and the nodes with GPUs have 2 CPUs, so"
                " there are at most 2 processes with 0.25 GPU each"
                for role, what in (("actor", "training"), ("trial", "evaluation"))
            ],
        ),
        (
            GIVEN,
            [(16, 4)],
            [
                "training uses 1.5 of Ray's 4 GPUs: resources.concurrency is 3, so there are at most 3 processes with"
                " 0.5 GPU each",
                "resources.trial.gpus is 0: evaluation runs on processors, though Ray has 4 GPUs",
            ],
        ),
    ],
)
def test_what_leaves_gpus_unused_is_said(
    resources: Resources, nodes: list[tuple[float, float]], lines: list[str]
) -> None:
    assert idle_gpus(resources, nodes) == lines
