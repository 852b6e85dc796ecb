"""Parts from components in memory: frozen, of equal seeds, with what each component can do."""

import pytest

from mpcwdwm.components import Component, component_class, component_config
from mpcwdwm.errors import UserError
from mpcwdwm.planning.assemble import assemble

OBS, ACT = 11, 3


def component(name: str, seeds: tuple[int, ...] = (0, 1), **fields: object) -> Component:
    """A component as it was built, untrained."""
    config = component_config(name, {}, {"hidden_dim": 8, **fields})
    return component_class(name, config)(config, OBS, ACT, seeds)


def test_no_component_learns_or_drops_out_any_more():
    given = {name: component(name) for name in ("rebrac", "world_model", "reward", "bc")}
    assert all(part.training for part in given.values())
    assemble(given, "rebrac")
    for name, part in given.items():
        assert not part.training, name
        assert not any(p.requires_grad for p in part.parameters()), name


def test_members_of_other_seeds_are_refused_however_many_they_are():
    given = {"rebrac": component("rebrac"), "reward": component("reward", seeds=(1, 0))}
    with pytest.raises(UserError, match=r"reward has seeds \[1, 0\], rebrac has \[0, 1\]"):
        assemble(given, "rebrac")


def test_a_component_without_a_critic_lends_none():
    given = {"rebrac": component("rebrac"), "bc": component("bc")}
    with pytest.raises(UserError, match="critic_from: bc has no critic"):
        assemble(given, "rebrac", critic_from="bc")


@pytest.mark.parametrize(("fields", "disagrees"), [({"kind": "mlp", "ensemble": 2}, True), ({"kind": "flow"}, False)])
def test_a_world_model_of_several_networks_says_how_far_they_disagree(fields, disagrees):
    given = {"rebrac": component("rebrac"), "world_model": component("world_model", **fields)}
    assert hasattr(assemble(given, "rebrac").world_model, "disagreement") == disagrees
