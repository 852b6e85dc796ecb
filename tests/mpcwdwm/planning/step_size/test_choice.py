"""`candidate_resets: both`: step sizes are judged with either reset, and every member takes its own best pair."""

import json

import numpy as np
import pytest
import torch

from mpcwdwm.errors import UserError
from mpcwdwm.planning import AdaptiveMpc, MpcConfig
from mpcwdwm.planning.step_size import choice as auto
from mpcwdwm.planning.step_size import off_policy
from mpcwdwm.planning.step_size.alpha import sizes
from mpcwdwm.planning.step_size.choice import ESTIMATORS, candidate_labels
from tests.support.plans import spec_with
from tests.support.random_parts import OBS, random
from tests.support.trusted_parts import trusted_parts

SMALL = {"H": 1, "M": 2}
AUTO = {**SMALL, "step_size": "auto", "smallest": 0.05, "largest": 0.2, "candidates": 2}
BOTH = {**AUTO, "candidate_resets": "both"}
PAIRS = [(0.0, "step"), (0.05, "step"), (0.05, "episode"), (0.2, "step"), (0.2, "episode")]
NEVER, NAN = 0, float("nan")


def started(fields, **options):
    """Two members with two rows each, after their first step."""
    planner = AdaptiveMpc(trusted_parts(), MpcConfig(**fields), seeds=(0, 1), episodes=2, **options)
    planner.act(random(4, OBS))
    return planner


@pytest.fixture
def said(monkeypatch):
    """Let the judge `distance` say what the test says: a score of each pair but the first, for each member."""

    def judge(*scores):
        words = iter([torch.tensor(pair, dtype=torch.float64) for pair in zip(*scores, strict=True)])
        monkeypatch.setattr(auto, "NEEDS", {"distance": ()})
        monkeypatch.setitem(ESTIMATORS._things, "distance", lambda *_: next(words))
        return {"judge": "distance"}

    return judge


# ------------------------------------------------------------------------------------- the judgement


def test_a_pair_is_judged_as_its_size_is_with_that_reset_given(monkeypatch):
    monkeypatch.setattr(off_policy, "HALT", 1e9)  # a random model leaves the data at once
    both = started({**BOTH, "step_unit": "action"}).choice
    assert list(zip(both.candidates, both.resets, strict=True)) == PAIRS
    for reset in ("step", "episode"):
        given = started({**AUTO, "step_unit": "action", "reset": reset}).choice
        assert given.resets == [reset] * 3
        assert set(given.scores) == set(both.scores)
        own = [i for i, pair in enumerate(PAIRS) if i == NEVER or pair[1] == reset]
        for judge, members in given.scores.items():
            found = [[scores[i] for i in own] for scores in both.scores[judge]]
            assert np.array_equal(found, members, equal_nan=True), judge
    for scores in both.scores["imagination"]:
        assert len(set(scores)) == len(PAIRS)  # the resets are told apart


@pytest.mark.parametrize(
    ("scores", "place"),
    [
        ((1, 2, 3, 4), 4),
        ((1, 2, 4, 3), 3),
        ((4, 5, 1, 2), 2),
        ((5, 4, 1, 2), 1),
        ((-1, -2, -3, -4), NEVER),
        ((2, 2, 2, 2), 1),  # of equals the smaller step, and the reset at every step
        ((0, 3, 2, 3), 2),
        ((NAN, 1, NAN, NAN), 2),
    ],
    ids=str,
)
def test_every_member_takes_its_best_pair(scores, place, said):
    planner = started({**BOTH, **said(scores, (0, 0, 0, 1)), "step_unit": "state"})
    (size, reset), last = PAIRS[place], PAIRS[-1]
    assert planner.choice.chosen == [size, last[0]]
    assert planner.choice.chosen_resets == [reset, last[1]]
    assert planner.alpha.tolist() == [size, size, last[0], last[0]]
    assert planner.afresh.tolist() == [reset == "step"] * 2 + [False] * 2


# --------------------------------------------------------------------------------------- its planner


@pytest.mark.parametrize("given", ["step", "episode"])
@pytest.mark.parametrize("unit", ["action", "state"])
def test_members_with_different_resets_act_as_planners_with_that_reset_do(unit, given, said):
    fields = {"step_unit": unit, "trust_region": 0.5, "E": 2}
    mixed = started({**BOTH, **fields, **said((0, 0, 1, 0), (0, 1, 0, 0)), "reset": given})
    chosen = [PAIRS[3], PAIRS[2]]
    fixed = [started({**SMALL, **fields, "step_size": size, "reset": reset}) for size, reset in chosen]
    other = started({**SMALL, **fields, "step_size": 0.2, "reset": "episode"})  # the first member's size only
    for _ in range(2):  # and again, from the start
        for planner in (mixed, *fixed, other):
            planner.rewind()
        apart = []
        for t in range(5):
            obs = random(4, OBS, purpose=f"test/{t}")
            action, *expected = (p.act(obs)[0] for p in (mixed, *fixed))
            for member, theirs in enumerate(expected):
                rows = slice(2 * member, 2 * member + 2)
                assert torch.allclose(action[rows], theirs[rows], rtol=0, atol=1e-12)
                for name, psi in mixed.psi.items():
                    assert torch.allclose(psi[rows], fixed[member].psi[name][rows], rtol=0, atol=1e-12)
            apart.append((action - other.act(obs)[0])[:2].norm(dim=1).min().item())
        assert apart[0] < 1e-12
        assert min(apart[1:]) > 1e-6


@pytest.mark.parametrize("reset", ["step", "episode"])
def test_with_the_reset_given_all_is_as_if_the_chosen_size_were_given(reset, said):
    given = {"reset": reset, "step_unit": "state"}
    chosen = started({**AUTO, **said((0, 1), (0, 1)), **given})
    fixed = started({**SMALL, **given, "step_size": 0.2})
    assert chosen.choice.candidates == sizes(chosen.config)
    assert chosen.choice.chosen_resets == [reset] * 2
    assert chosen.afresh is None
    for t in range(4):
        obs = random(4, OBS, purpose=f"test/{t}")
        assert torch.allclose(chosen.act(obs)[0], fixed.act(obs)[0], rtol=0, atol=1e-12)


# -------------------------------------------------------------------------------------- its records


def test_each_members_manifest_tells_its_pair(said):
    scores = ((0, 0, 1, NAN), (0, 1, 0, NAN))
    planner = started({**BOTH, **said(*scores), "step_unit": "state"})
    found = json.loads(json.dumps(planner.findings(), allow_nan=False))
    assert [(one["step_size"], one["reset"]) for one in found] == [PAIRS[3], PAIRS[2]]
    for one, own in zip(found, scores, strict=True):
        judges = one["judges"]
        assert (judges["chosen"], judges["chosen_reset"]) == (one["step_size"], one["reset"])
        assert list(zip(judges["candidates"], judges["resets"], strict=True)) == PAIRS
        assert judges["scores"] == {"distance": [0, *own[:-1], None]}


def test_a_measured_step_size_is_recorded_with_the_reset_that_is_given():
    for reset in ("step", "episode"):
        found = started({**SMALL, "step_unit": "action", "step_size": 0.1, "reset": reset}).findings()
        assert [one["reset"] for one in found] == [reset] * 2


def test_candidates_are_named_by_their_reset_where_there_are_two():
    recorded = {"candidates": [size for size, _ in PAIRS], "resets": [reset for _, reset in PAIRS]}
    names = ["0.05 (reset: step)", "0.05 (reset: episode)", "0.2 (reset: step)", "0.2 (reset: episode)"]
    assert candidate_labels(recorded) == [0, *names]
    assert candidate_labels({"candidates": [0, 0.05], "resets": ["step", "step"]}) == [0, 0.05]
    assert candidate_labels({"candidates": [0, 0.05]}) == [0, 0.05]  # as older manifests have them


def test_whose_resets_are_tried_is_chosen_and_misspelt_in_yaml(tmp_path):
    spec = spec_with(tmp_path, "{step_size: auto, candidate_resets: [given, both], reset: step}")
    configs = [choice.config for choice in spec.tasks[0].planners["mine"]]
    assert [(c.candidate_resets, c.reset) for c in configs] == [("given", "step"), ("both", "step")]
    plain = spec_with(tmp_path, "{step_size: auto}")
    (config,) = (choice.config for choice in plain.tasks[0].planners["mine"])
    assert (config.candidate_resets, config.judge) == ("given", "imagination")
    wrong = r"s.yaml:5: .*candidate_resets should be .*\"bith\" \(did you mean 'both'"
    with pytest.raises(UserError, match=wrong) as caught:
        spec_with(tmp_path, "{step_size: auto, candidate_resets: bith}")
    assert "\n" not in str(caught.value)
