"""Products by oneDNN against the same in double precision, and whole programs against those with MKL."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from mpcwdwm.components import component_config
from mpcwdwm.data.fingerprint import cache_folder
from mpcwdwm.errors import UserError
from mpcwdwm.nn import products
from mpcwdwm.nn.compute import compiler, library_of
from mpcwdwm.nn.compute_config import ComputeConfig
from mpcwdwm.nn.networks import Mlp, StackedLinear
from mpcwdwm.nn.products import LEAST, linear, multiplied_by, onednn_available, product
from mpcwdwm.nn.weight_gradients import gathered_weight_gradients
from mpcwdwm.planning import AdaptiveMpc, MpcConfig, assemble
from mpcwdwm.training.loop import Training, train
from tests.support.recorded_episodes import recorded

pytestmark = pytest.mark.skipif(not onednn_available(), reason="this torch has no oneDNN")
ROUNDING = 2e-6  # of float32 sums of some tens of products, relative to the largest


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Rows, inputs and outputs of what oneDNN was asked for; here even small products go to it."""
    monkeypatch.setattr(products, "LEAST", 1)
    seen, multiply = list[tuple[int, ...]](), products._multiply

    def noted(a, b, bias):
        seen.append((*a.shape, b.shape[0]))
        return multiply(a, b, bias)

    monkeypatch.setattr(products, "_multiply", noted)
    return seen


def close(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    return float((found.double() - wanted).abs().max()) <= ROUNDING * float(wanted.abs().max())


def random(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------------------------- one product


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("strided", ["", "x", "w", "xw"])
def test_a_product_is_that_of_double_precision(asked, members, biased, strided):
    x = random(members, 40, 17).mT if "x" in strided else random(members, 17, 40)
    w = random(members, 29, 40, seed=1).mT if "w" in strided else random(members, 40, 29, seed=1)
    bias = random(members, 1, 29, seed=2) if biased else None
    with multiplied_by("onednn"):
        found = product(x, w, bias)
    assert asked == [(17, 40, 29)] * members
    assert close(found, x.double() @ w.double() + (bias.double() if biased else 0))


@pytest.mark.parametrize("members", [1, 3])
def test_a_linear_layers_gradients_are_those_of_double_precision(asked, members):
    leaves = [random(members, 33, 16), random(members, 16, 24, seed=1), random(members, 1, 24, seed=2)]
    direction = random(members, 33, 24, seed=3)
    own = [leaf.clone().requires_grad_() for leaf in leaves]
    with multiplied_by("onednn"):
        found = torch.autograd.grad(linear(*own), own, direction)
    exact = [leaf.double().requires_grad_() for leaf in leaves]
    x, weight, bias = exact
    wanted = torch.autograd.grad(x @ weight + bias, exact, direction.double())
    assert all(close(a, b) for a, b in zip(found, wanted, strict=True))
    assert asked == [(33, 16, 24)] * members + [(33, 24, 16)] * members + [(16, 33, 24)] * members


def test_only_the_gradients_that_are_needed_are_formed(asked):
    x, w, b = random(1, 33, 16).requires_grad_(), random(1, 16, 24), random(1, 1, 24)
    with multiplied_by("onednn"):
        linear(x, w, b).sum().backward()
    assert asked == [(33, 16, 24), (33, 24, 16)]


def test_small_products_and_other_precisions_stay_with_torch(monkeypatch):
    def refuse(*_):
        raise AssertionError("asked")

    monkeypatch.setattr(products, "_multiply", refuse)
    rows = LEAST // 256**2
    large, small, w = random(1, rows, 256), random(1, rows - 1, 256), random(1, 256, 256, seed=1)
    with multiplied_by("onednn"):
        assert torch.equal(product(small, w), small @ w)
        assert torch.equal(product(large.double(), w.double()), large.double() @ w.double())
        with pytest.raises(AssertionError, match="asked"):
            product(large, w)
    assert torch.equal(product(large, w), large @ w)  # outside of the block as before


# -------------------------------------------------------------------------------------- whole programs


def test_layers_take_it_forward_backward_and_along_a_direction(asked):
    net = Mlp((2, 3), 8, [16, 16], 4, activation=torch.nn.functional.silu)
    for i, parameter in enumerate(net.parameters()):
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(i))
    x, dx = random(2, 1, 12, 8), random(2, 3, 12, 8, seed=9)

    def results() -> list[torch.Tensor]:
        y, along = net.with_derivative(x.expand(2, 3, 12, 8), dx)
        return [y.detach(), along, *torch.autograd.grad(net(x).square().sum(), list(net.parameters()))]

    slow = results()
    assert not asked
    with multiplied_by("onednn"):
        fast = results()
    assert len(asked) == 6 * (3 + 3 + 3 + 2 + 3)  # output and derivative; forward, input and weight gradients
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(slow, fast, strict=True))


def test_weight_gradients_formed_once_take_it(asked):
    layer = StackedLinear((3,), 8, 8, torch.float32)
    torch.nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(1))

    def gradients() -> tuple[torch.Tensor, ...]:
        with gathered_weight_gradients():
            loss = layer(layer(random(3, 12, 8)).sin()).square().sum()
        return torch.autograd.grad(loss, [layer.weight, layer.bias])

    slow = gradients()
    with multiplied_by("onednn"):
        fast = gradients()
    assert asked == 6 * [(12, 8, 8)] + 3 * [(12, 8, 8)] + 3 * [(8, 24, 8)]  # two uses, one input's, both weights'
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(slow, fast, strict=True))


def trained(library: str, capture: str = "eager") -> dict[str, torch.Tensor]:
    config = component_config("rebrac", {}, {"hidden_dim": 32, "batch_size": 64, "steps": 6, "evaluations": 1})
    training = Training("rebrac", config, recorded(), [0, 1], compute=ComputeConfig(products=library, capture=capture))
    training.run()
    assert training.trained()[0].facts["compute"]["products"] == library
    return training.part.state_dict()


def test_a_training_is_the_same_with_both(asked):
    slow = trained("mkl")
    assert not asked
    fast = trained("onednn")
    assert asked
    assert all(torch.allclose(slow[name], fast[name], rtol=1e-3, atol=1e-5) for name in slow)


@pytest.mark.slow
@pytest.mark.skipif(not compiler(), reason="needs a C++ compiler")
def test_a_compiled_training_asks_onednn_too(asked):
    eager = trained("onednn")
    asked.clear()
    compiled = trained("onednn", "compile")
    assert asked
    assert all(torch.allclose(eager[name], compiled[name], rtol=1e-3, atol=1e-5) for name in eager)


def test_a_plan_is_the_same_with_both(asked):
    config, data = MpcConfig(horizon=2, rollouts=4, updates=2, step_size=1e-3), recorded()
    fields = {"hidden_dim": 16, "steps": 3, "evaluations": 1}
    components = {
        name: train(name, component_config(name, {}, fields), data, [0, 1]) for name in ("rebrac", *config.needs)
    }
    actions = {}
    for library in ("mkl", "onednn"):
        asked.clear()
        parts = assemble(components, "rebrac")
        planner = AdaptiveMpc(parts, config, seeds=[0, 1], episodes=3, compute=ComputeConfig(products=library))
        actions[library] = planner.act(random(6, data.obs_dim))[0].clone()
        assert bool(asked) == (library == "onednn")
    assert torch.allclose(actions["mkl"], actions["onednn"], atol=1e-5)


# ----------------------------------------------------------------------------------------- the choice


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return cache_folder() / "speed"


@pytest.mark.parametrize(("ratios", "chosen"), [((2.0, 1.5), "onednn"), ((2.0, 1.0), "mkl"), ((0.5, 0.5), "mkl")])
def test_auto_takes_the_faster_and_keeps_to_it(cache, monkeypatch, ratios, chosen):
    found = list(ratios)
    monkeypatch.setattr(products, "_times_as_fast", lambda *shape: found.pop(0))
    assert library_of(ComputeConfig(), "cpu") == chosen
    assert library_of(ComputeConfig(), "cpu") == chosen  # nothing is left to be measured
    (entry,) = cache.glob("products-*.json")
    entry.write_text("{")
    found += [1.0, 1.0]
    assert library_of(ComputeConfig(), "cpu") == "mkl"  # a damaged file is measured anew
    assert json.loads(entry.read_text())["times_as_fast"] == [1.0, 1.0]


def test_processes_that_start_together_take_one_choice(cache, monkeypatch):
    found = [2.0, 2.0, 1.0, 1.0, 1.0, 1.0]
    monkeypatch.setattr(products, "_times_as_fast", lambda *shape: found.pop(0))
    with ThreadPoolExecutor(3) as pool:
        chosen = [pool.submit(library_of, ComputeConfig(), "cpu") for _ in range(3)]
    assert {each.result() for each in chosen} == {"onednn"}


def test_without_a_cache_folder_or_onednn_it_is_mkl(cache, monkeypatch):
    monkeypatch.setattr(products, "_times_as_fast", lambda *shape: 2.0)
    cache.parent.mkdir(parents=True)
    cache.write_text("a file where the folder should be")
    assert library_of(ComputeConfig(), "cpu") == "mkl"
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert library_of(ComputeConfig(), "cpu") == "mkl"
    with pytest.raises(UserError, match="needs a torch built with oneDNN"):
        library_of(ComputeConfig(products="onednn"), "cpu")
    assert library_of(ComputeConfig(products="onednn"), "cuda") is None


def test_what_decides_is_a_ratio_of_times():
    assert 0.05 < products._times_as_fast(64, 256, 256) < 50
