"""One episode in pictures: which steps are shown, and films of an environment that draws its own state."""

import io
from dataclasses import replace
from typing import ClassVar

import gymnasium
import numpy as np
import pytest
from PIL import Image
from torch import nn

from analysis.figures.film import animation, contact_sheet
from mpcwdwm.errors import UserError
from mpcwdwm.evaluation.film import Film, films
from mpcwdwm.planning import planner_config
from mpcwdwm.planning.parts import ModulePolicy
from sweeps import result_commands
from tests.support.parts import BUNDLED
from tests.support.planners import hopper_parts


class Counting(gymnasium.Env):
    """Ends after six steps; its picture is as bright as its step."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (11,), np.float64)
    action_space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
    metadata: ClassVar = {"render_modes": ["rgb_array"]}

    def __init__(self, render_mode=None, broken=False):
        self.render_mode, self._broken = render_mode, broken

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._step = 0
        return np.full(11, float(self.np_random.normal())), {}

    def step(self, action):
        self._step += 1
        return np.full(11, 0.1 * self._step), 1.0, self._step == 6, False, {}

    def render(self):
        if self._broken:
            raise RuntimeError("there is no GL here")
        return np.full((8, 8, 3), 10 * self._step, np.uint8)


gymnasium.register("Counting-v0", entry_point=Counting)


def parts_of(**changes):
    net = nn.Sequential(nn.Linear(11, 3), nn.Tanh())
    parts = hopper_parts(lambda obs, action: obs[..., 0] * 0 - action.square().sum(-1))
    fields = {"policy": ModulePolicy(net), "members": 1, "env_id": "Counting-v0", "reference": (0.0, 12.0)}
    return replace(parts, **{**fields, **changes})


def test_films_are_played_from_one_start_and_taken_at_the_same_steps():
    planner = planner_config({"kind": "policy", "H": 1, "M": 1, "E": 1, "step_size": 0.1})
    frozen, adapted = films(parts_of(), {"frozen": None, "adapted": planner}, pictures=3)
    assert (frozen.label, adapted.label) == ("frozen", "adapted")
    assert frozen.steps == adapted.steps == (0, 2, 4, 6)
    assert [int(picture[0, 0, 0]) for picture in frozen.pictures] == [0, 20, 40, 60]
    assert (frozen.return_, frozen.score, frozen.length) == (6, 50, 6)


def test_where_nothing_can_be_rendered_a_line_says_how_it_would():
    with pytest.raises(UserError, match=r"no pictures of 'Counting-v0': RuntimeError: there is no GL here; set MUJO"):
        films(parts_of(env_kwargs={"broken": True}), {"frozen": None})
    with pytest.raises(UserError, match="a film shows one policy, the parts have 2"):
        films(hopper_parts(lambda obs, action: obs[..., 0]), {"frozen": None})


def film(label, steps, length):
    pictures = tuple(np.full((8, 8, 3), step, np.uint8) for step in steps)
    return Film(label, pictures, steps, float(length), None, length)


@pytest.fixture(scope="module")
def two():
    return [film("frozen", (0, 50, 100, 150, 200), 200), film("adapted", (0, 50, 100, 120), 120)]


def test_a_contact_sheet_has_the_same_steps_below_each_other_and_says_what_ended(two):
    figure = contact_sheet(two, columns=3)
    shown = [[int(axes.images[0].get_array()[0, 0, 0]) for axes in figure.axes[row : row + 3]] for row in (0, 3)]
    assert shown == [[0, 100, 200], [0, 100, 120]]
    assert [text.get_text() for axes in figure.axes for text in axes.texts] == ["ended at 120"]
    said = [text.get_text() for text in figure.texts]
    assert said == ["frozen\nreturn 200\n200 steps", "adapted\nreturn 120\n120 steps", "step 0", "step 100", "step 200"]


@pytest.mark.parametrize("form", ["WEBP", "GIF"])
def test_an_animation_has_a_picture_for_every_step_of_the_longest(two, form):
    found = Image.open(io.BytesIO(animation(two, form)))
    assert (found.format, found.n_frames) == (form, 5)
    assert found.size == (8, 26)


def test_the_command_names_the_rows_there_are(tmp_path):
    spec = tmp_path / "s.yaml"
    planner = "planners: {mpc: {kind: policy}}"
    spec.write_text(f"name: s\ntasks: [{BUNDLED}]\nseeds: 1\n{planner}\nbaselines: [rebrac]\n")
    with pytest.raises(UserError, match=r"sweep s: no planner's row is called 'mpcc' .*'mpc'"):
        result_commands.film(str(spec), method="mpcc")
    with pytest.raises(UserError, match="no finished components; run 'mpcwdwm sweep run SPEC' first"):
        result_commands.film(str(spec), method="mpc")
