"""Every fast path against its slow twin: captured, compiled and gathered computation equals the eager one.

A CUDA graph is a list of operations on fixed memory. `Recording` does the same on a processor: it notes the
operations of one call and replays them without running the Python code again, so whatever the code takes from
Python between two calls (a step number, a new tensor) shows as a wrong result. The real graphs are held against
the same twins in `test_gpu.py`.
"""

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from mpcwdwm.components import component_config
from mpcwdwm.errors import UserError
from mpcwdwm.nn import compute as compute_module
from mpcwdwm.nn.compute import arithmetic, compiler, execution_of, record
from mpcwdwm.nn.compute_config import ComputeConfig
from mpcwdwm.nn.networks import Mlp, uniform_init
from mpcwdwm.nn.products import faster_library
from mpcwdwm.nn.weight_gradients import gathered_weight_gradients
from mpcwdwm.planning import AdaptiveMpc, planner_config
from mpcwdwm.planning.registry import PLANNERS
from mpcwdwm.random import generator
from mpcwdwm.training.loop import Training
from tests.support.parts import PARTS, bases_of, part_of
from tests.support.random_parts import OBS
from tests.support.trusted_parts import ALL, trusted_parts

SMALL = {"hidden_dim": 16, "batch_size": 32, "steps": 400, "evaluations": 1}
EAGER = ComputeConfig(capture="eager")
WAITING = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique")


class Recorder(TorchDispatchMode):
    """Notes every operation with the very tensors it read and wrote."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        # detached: the same memory, without what autograd knows of it
        noted = tree_map(lambda x: x.detach() if isinstance(x, Tensor) else x, (args, kwargs or {}, out))
        self.operations.append((func, *noted))
        return out


class Recording:
    """Runs the work itself a few times, then records one run and only replays it."""

    def __init__(self, work, device):
        self.work, self.calls, self.recorder = work, 0, None

    def __call__(self):
        self.calls += 1
        if self.calls <= compute_module.WARM_UP:
            return self.work()
        if self.recorder is None:
            with Recorder() as self.recorder:
                self.result = self.work()  # does the work once, as a capture and its first replay do
            return self.result
        with torch.no_grad():
            for func, args, kwargs, noted in self.recorder.operations:
                for old, new in zip(tree_leaves(noted), tree_leaves(func(*args, **kwargs)), strict=True):
                    if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)
        return self.result


@pytest.fixture
def recorded(monkeypatch):
    """Let a processor do what a GPU does: record and replay."""
    for module in ("mpcwdwm.training.loop", "mpcwdwm.planning.planner"):
        monkeypatch.setattr(f"{module}.Captured", Recording)
        monkeypatch.setattr(f"{module}.execution_of", lambda *_, **__: "graph")
    for module in ("ascent", "trust.region"):
        monkeypatch.setattr(f"mpcwdwm.planning.{module}.looking_is_free", lambda device: False)


@pytest.fixture(scope="module")
def small(dataset):
    return part_of(dataset, 0, 4000)


def config_of(name, **fields):
    component, own = PARTS[name]
    return component_config(component, {}, {**SMALL, **own, **fields})


def trained(name, config, data, steps, **options):
    training = training_of(name, config, data, **options)
    training.run(until=steps)
    return training


def training_of(name, config, data, **options):
    return Training(PARTS[name][0], config, data, [0, 1], bases=bases_of(config, data, [0, 1]), **options)


def assert_equal_parts(one, other, **tolerance):
    for key, value in one.part.state_dict().items():
        assert torch.allclose(value, other.part.state_dict()[key], **tolerance), key


# ------------------------------------------------------------------------------------------ training


@pytest.mark.parametrize("name", PARTS)
def test_replayed_updates_equal_eager_ones(name, small, request):
    eager = training_of(name, config_of(name), small, dtype=torch.float64, compute=EAGER)
    for group in (group for optimizer in eager.part.optimizers.values() for group in optimizer.param_groups):
        group["lr"] = torch.tensor(group["lr"], dtype=torch.float32)  # rounded as a captured update's
    eager.run(until=200)
    request.getfixturevalue("recorded")
    replayed = trained(name, config_of(name), small, 200, dtype=torch.float64)
    assert replayed.path == "graph"
    assert any(update.recorder for update in replayed._updates)
    assert_equal_parts(eager, replayed, rtol=0, atol=1e-10)
    for key, total in eager._sums.items():  # metrics are summed where the updates are
        assert torch.allclose(total, replayed._sums[key], rtol=1e-9), key
    assert eager._counts == replayed._counts


def test_padded_gradients_reach_the_optimizer_without_their_padding(small, monkeypatch):
    """A compiled update can return them; on a GPU the fused optimizer refuses other strides than the parameters'."""
    gradients_of = torch.autograd.grad

    def padded(*arguments, **options):
        return [torch.stack([g, g], -1)[..., 0] for g in gradients_of(*arguments, **options)]

    plain = trained("bc", config_of("bc"), small, 3, compute=EAGER)
    monkeypatch.setattr(torch.autograd, "grad", padded)
    other = trained("bc", config_of("bc"), small, 3, compute=EAGER)
    assert all(p.grad.stride() == p.stride() for p in other.part.actor.parameters())
    assert_equal_parts(plain, other, rtol=0, atol=0)


def test_replayed_updates_are_resumed_to_the_bit(small, recorded, tmp_path):
    whole = trained("iql", config_of("iql"), small, 90)
    first = trained("iql", config_of("iql"), small, 70)
    first.save(tmp_path / "checkpoint")
    second = Training("iql", config_of("iql"), small, [0, 1])
    assert second.load(tmp_path / "checkpoint")
    second.run(until=90)
    assert_equal_parts(whole, second, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
@pytest.mark.parametrize("name", ["rebrac", "iql"])
def test_compiled_updates_equal_eager_ones(name, small):
    from torch._dynamo.utils import counters

    counters.clear()
    eager = trained(name, config_of(name), small, 200, compute=EAGER)
    assert not counters["stats"]
    compiled = trained(name, config_of(name), small, 200, compute=ComputeConfig(capture="compile"))
    assert 2 <= counters["stats"]["unique_graphs"] <= 10  # whole losses, not layer by layer
    assert_equal_parts(eager, compiled, rtol=1e-3, atol=2e-4)  # float32, sums in another order, 200 steps of Adam
    facts = {"path": "compile", "tf32": False, "products": faster_library()}
    assert compiled.trained()[0].facts["compute"] == facts


class Watch(TorchDispatchMode):
    """Refuses every operation whose result the host has to wait for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert not any(name in str(func) for name in WAITING), f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", PARTS)
def test_nothing_in_the_training_loop_waits_for_the_device(name, small):
    training = training_of(name, config_of(name), small)
    with Watch():
        training.run(until=130, on_progress=lambda done, steps: None)
    with pytest.raises(AssertionError, match="waits"), Watch():  # the watch sees what it is for
        torch.ones(()).item()


# ------------------------------------------------------------------------------------------ planning


TRUSTED = {**ALL, "trust_region": 0.05, "gate": 0.1}
MPPI = {"kind": "mppi", "samples": 10, "policy_samples": 2, "elites": 4}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"reset": "step"},
        {"noise": "redrawn"},
        {"E": 0},
        {"H": 0},
        TRUSTED,
        {**TRUSTED, "disagreement": "world_model", "step_unit": "action", "reset": "step"},
        {"step_unit": "state"},
        {**TRUSTED, "step_unit": "state", "reset": "step"},
        {"kind": "action"},
        {"kind": "action", "reset": "episode", "noise": "redrawn"},
        MPPI,
        {**MPPI, "noise": "redrawn", "last_action": "planned", "execute": "best"},
        {"kind": "diffuser", "M": 3},
        {"kind": "diffuser", "M": 3, "warm_start": True, "warm_steps": 3},
        {"kind": "action", "step_unit": "state", "planned": "first", "uncertainty": 0.5},
        {"kind": "random"},
        {"kind": "none"},
    ],
    ids=str,
)
def test_replayed_plans_equal_eager_ones(fields, request):
    kind, sizes = fields.get("kind", "policy"), {"H": 2, "M": 4, "E": 2}
    steps = {"step_size": 1e-2} if kind in ("policy", "action") else {}
    config = planner_config(fields if kind in ("none", "random", "diffuser") else {**sizes, **steps, **fields})

    def planner(**options):
        return PLANNERS[kind](trusted_parts((0, 1)), config, seeds=(0, 1), episodes=2, **options)

    assert_replayed_as_eager(planner, request)


@pytest.mark.parametrize("fields", [{}, {**TRUSTED, "trust_region": 1.0, "reset": "step"}], ids=str)
def test_replayed_plans_equal_eager_ones_where_members_reset_differently(fields, request):
    config = planner_config({"H": 2, "M": 4, "E": 2, "step_unit": "state", **fields})

    def planner(**options):
        made = AdaptiveMpc(trusted_parts((0, 1)), config, seeds=(0, 1), episodes=2, **options)
        made.alpha = torch.tensor([0.02, 0.02, 0.01, 0.01], dtype=torch.float64)
        made.afresh = torch.tensor([True, True, False, False])
        return made

    carried = assert_replayed_as_eager(planner, request).psi
    alike = planner(compute=EAGER)
    alike.afresh = torch.tensor([True] * 4)
    for i in range(8):
        alike.act(torch.randn(4, OBS, generator=generator(i, "test/obs"), dtype=torch.float64))
    same = [all(torch.allclose(p[row], carried[name][row]) for name, p in alike.psi.items()) for row in range(4)]
    assert same == [True, True, False, False]


def assert_replayed_as_eager(planner, request):
    """Assert it of eight steps, and return the planner whose step was replayed."""
    obs = [torch.randn(4, OBS, generator=generator(i, "test/obs"), dtype=torch.float64) for i in range(8)]
    eager = planner(compute=EAGER)
    expected = [[out.clone() for out in eager.act(o)] for o in obs]
    request.getfixturevalue("recorded")
    replayed = planner()
    found = [[out.clone() for out in replayed.act(o)] for o in obs]
    assert replayed._step.recorder is not None
    for ours, theirs in zip(found, expected, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert torch.allclose(one, other, rtol=0, atol=1e-12, equal_nan=True)
    assert all(torch.allclose(replayed.kept[name], eager.kept[name], atol=1e-12) for name in eager.kept)
    assert not any(torch.equal(one[0], other[0]) for one, other in pairwise(found))
    return replayed


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        *((kind, {}) for kind in PLANNERS),
        ("policy", TRUSTED),
        ("policy", {"step_unit": "state"}),
        ("policy", {"reset": "step"}),
    ],
    ids=str,
)
def test_nothing_in_a_planning_step_waits_for_the_device(kind, fields, recorded):
    sizes = {"none": {}, "random": {}, "diffuser": {"M": 2, "warm_start": True}}.get(kind, {"H": 2, "M": 2})
    config = planner_config({"kind": kind, **sizes, **fields})
    planner = PLANNERS[kind](trusted_parts((0,)), config)
    if "reset" in fields:  # as a judge would choose it
        planner.alpha, planner.afresh = torch.ones(1, dtype=torch.float64), torch.tensor([False])
    obs = torch.randn(1, OBS, generator=generator(0, "test/obs"), dtype=torch.float64)
    planner.act(obs)
    with Watch():
        planner._step()


def test_weight_gradients_over_all_uses_are_those_of_autograd():
    net = Mlp((3,), 4, [6, 6], 4, activation=torch.tanh, dtype=torch.float64)
    for member in range(3):
        net.initialize(member, generator(member, "test"), uniform_init(), uniform_init())
    x = torch.randn(3, 5, 4, generator=generator(0, "test/x"), dtype=torch.float64, requires_grad=True)
    wanted = [x, *net.parameters()]

    def loss() -> Tensor:
        y, total = x[:, :1], torch.zeros((), dtype=torch.float64)
        for _ in range(4):  # every use depends on the last one, and the number of rows changes
            y = net(y.detach() if total.requires_grad and y.shape[1] == 1 else y) + x
            total = total + y.square().sum()
        net(x)  # a use without gradient
        return total + sum(p.square().sum() for p in net.parameters())  # and a use outside of the layers

    plain = torch.autograd.grad(loss(), wanted)
    with gathered_weight_gradients():
        value = loss()
    for ours, theirs in zip(torch.autograd.grad(value, wanted), plain, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-12)


# ---------------------------------------------------------------------------------------- which path


def test_the_path_follows_from_device_length_and_compiler(monkeypatch):
    auto, pays = ComputeConfig(), {"cpu": 20, "cuda": 100}
    monkeypatch.setattr(compute_module, "find_spec", lambda name: object())
    monkeypatch.setattr(compute_module.shutil, "which", lambda name: "/usr/bin/c++" if name == "c++" else None)
    assert execution_of(auto, "cpu", updates=19, compile_pays=pays) == "eager"
    assert execution_of(auto, "cpu", updates=20, compile_pays=pays) == "compile"
    assert execution_of(auto, "cpu", updates=20) == "eager"
    assert execution_of(auto, "cpu", compile_pays=pays) == "eager"  # planning is not compiled
    assert execution_of(ComputeConfig(capture="compile"), "cpu") == "eager"
    assert execution_of(auto, "cuda", updates=99, compile_pays=pays) == execution_of(auto, "cuda:1") == "graph"
    assert execution_of(auto, "cuda:1", updates=100, compile_pays=pays) == "compile"
    assert execution_of(auto, "cuda", updates=100, compile_pays={"cpu": 20}) == "graph"
    assert execution_of(EAGER, "cuda", updates=100, compile_pays=pays) == "eager"
    monkeypatch.setattr(compute_module, "find_spec", lambda name: None)  # no Triton
    assert execution_of(auto, "cuda", updates=100, compile_pays=pays) == "graph"
    assert execution_of(auto, "cpu", updates=20, compile_pays=pays) == "compile"
    monkeypatch.setattr(compute_module.shutil, "which", lambda name: None)
    assert execution_of(auto, "cpu", updates=20, compile_pays=pays) == "eager"
    assert execution_of(auto, "cuda", updates=100, compile_pays=pays) == "graph"
    with pytest.raises(UserError, match="use graph"):
        execution_of(ComputeConfig(capture="compile"), "cuda", updates=5)
    with pytest.raises(UserError, match="needs a C\\+\\+ compiler"):
        execution_of(ComputeConfig(capture="compile"), "cpu", updates=5)
    with pytest.raises(UserError, match="needs a GPU"):
        execution_of(ComputeConfig(capture="graph"), "cpu", updates=5)


def test_tf32_is_off_unless_asked_for_and_what_was_set_before_comes_back():
    settings = torch.backends.cuda.matmul
    assert not settings.allow_tf32
    with arithmetic(ComputeConfig(tf32=True), None):
        assert settings.allow_tf32
        with arithmetic(ComputeConfig(), None):
            assert not settings.allow_tf32
        assert settings.allow_tf32
    assert not settings.allow_tf32
    asked = ComputeConfig(tf32=True, products="mkl")
    assert record(asked, "cpu", "eager") == {"path": "eager", "tf32": False, "products": "mkl"}
    assert record(asked, "cuda", "graph") == {"path": "graph", "tf32": True, "products": None}
