"""Good lines of a sweep's YAML, and every way to get them wrong with the line and words that say so."""

from tests.support.parts import BUNDLED as HOPPER

GOOD = {
    "name": "mine",
    "tasks": f"[{HOPPER}]",
    "seeds": "2",
    "planners": "{mpc: {kind: policy, horizon: [1, 3]}}",
}


def text(extra: str = "", **sections: str) -> str:
    """Four good lines (name, tasks, seeds, planners), some of them replaced, and what follows them."""
    return "".join(f"{name}: {value}\n" for name, value in {**GOOD, **sections}.items()) + extra


BROKEN = {  # what is wrong → the file, its place, what has to be said
    "unknown section": (text("plannrs: {}"), "s.yaml:5:", "unknown key 'plannrs' (did you mean 'planners'?)"),
    "unknown field": (
        text(planners="\n  mpc:\n    kind: policy\n    horizn: 3"),
        "s.yaml:7:",
        "unknown key 'horizn' in planners.mpc (did you mean 'horizon'?)",
    ),
    "unknown field with a list": (
        text(planners="\n  mpc:\n    stepsize: [1e-6,\n      1e-4]"),
        "s.yaml:6:",
        "unknown key 'stepsize' in planners.mpc (did you mean 'step_size'?)",
    ),
    "unknown field with a mapping": (
        text(planners="{mpc: {horizn: {a: 1}}}"),
        "s.yaml:4:",
        "unknown key 'horizn' in planners.mpc (did you mean 'horizon'?)",
    ),
    "another program's name": (
        text("components: {rebrac: {gamma: 0.9}}"),
        "s.yaml:5:",
        "unknown key 'gamma' in components.rebrac (did you mean 'discount'?)",
    ),
    "another program's name, of a task": (
        text(tasks="[{name: a, path: x.hdf5, env: Hopper-v4}]"),
        "s.yaml:2:",
        "unknown key 'path' in tasks[0] (did you mean 'dataset'?) (and 1 more)",
    ),
    "another section's field": (
        text("resources: {num_cpus: 2}"),
        "s.yaml:5:",
        "unknown key 'num_cpus' in resources (resources.actor and resources.trial have 'cpus')",
    ),
    "a component's field in a planner": (
        text(planners="{mpc: {gamma: 0.9}}"),
        "s.yaml:4:",
        "(components.rebrac and components.iql and components.value have 'discount')",
    ),
    "short and long name": (
        text(planners="{mpc: {kind: policy, H: 1, horizon: 2}}"),
        "s.yaml:4:",
        "planners.mpc has both",
    ),
    "text for a number": (
        text(planners="{mpc: {kind: policy, H: '3'}}"),
        "s.yaml:4:",
        "planners.mpc.horizon should be a whole",
    ),
    "fraction for a count": (
        text(planners="{mpc: {kind: policy, H: [1, 2.5]}}"),
        "s.yaml:4:",
        "planners.mpc.horizon[1]",
    ),
    "out of range, on its own line": (
        text(planners="\n  mpc:\n    kind: policy\n    H: [1,\n        -2]"),
        "s.yaml:8:",
        "planners.mpc.horizon[1] should be greater than or equal to 0, not -2",
    ),
    "empty axis": (text(planners="{mpc: {kind: policy, H: []}}"), "s.yaml:4:", "planners.mpc.horizon is an empty axis"),
    "doubled value": (
        text(planners="{mpc: {kind: policy, H: [1, 1.0]}}"),
        "s.yaml:4:",
        "planners.mpc.horizon has the value",
    ),
    "unknown kind": (
        text(planners="{mpc: {kind: polcy}}"),
        "s.yaml:4:",
        "planners.mpc: unknown planner kind 'polcy' (did you mean 'policy'?)",
    ),
    "unknown base": (text(planners="{mpc: {kind: policy, base: rebrak}}"), "s.yaml:4:", "planners.mpc.base"),
    "kind of wrong type": (text(planners="{mpc: {kind: 3}}"), "s.yaml:4:", "planners.mpc: unknown planner kind '3'"),
    "planner not a mapping": (text(planners="{mpc: 3}"), "s.yaml:4:", "planners.mpc should be a mapping"),
    "planner named like a path": (text(planners="{../x: {kind: policy}}"), "s.yaml:4:", "'../x' cannot be a name"),
    "grid too large": (
        text(planners=f"{{mpc: {{kind: policy, H: {list(range(200))}, M: {list(range(1, 200))}}}}}"),
        "s.yaml:4:",
        "the grid of planners.mpc has 39800 points",
    ),
    "more episodes traced than played": (
        text() + "evaluation: {episodes: 2, traced_episodes: 3}\n",
        "s.yaml:",
        "traced_episodes is 3, but 2 episodes are played",
    ),
    "sweep named like a path": (text(name="../a"), "s.yaml:1:", "name: '../a' cannot be a name"),
    "sweep named by a number": (text(name="5"), "s.yaml:1:", "name should be text"),
    "no name": (text().split("\n", 1)[1], "s.yaml:1:", "missing key 'name'"),
    "unknown task": (text(tasks="[hoper-medium-v2]"), "s.yaml:2:", "(did you mean 'hopper-medium-v2'?)"),
    "path as a task": (text(tasks="[data/x.hdf5]"), "s.yaml:2:", "'data/x.hdf5' is a path"),
    "task twice": (text(tasks=f"[{HOPPER},\n  {HOPPER}]"), "s.yaml:3:", "is listed twice"),
    "no tasks": (text(tasks="[]"), "s.yaml:2:", "tasks should have at least one entry"),
    "tasks not a list": (text(tasks=HOPPER), "s.yaml:2:", "tasks should be a list"),
    "number as a task": (text(tasks="[3]"), "s.yaml:2:", "tasks[0] should be a task's name or a mapping"),
    "dataset without environment": (
        text(tasks="[{name: a, dataset: x.hdf5}]"),
        "s.yaml:2:",
        "missing key 'env' in tasks[0]",
    ),
    "misspelt task field": (
        text(tasks="\n- name: a\n  dataset: x.hdf5\n  env: Hopper-v4\n  refrence: [0, 1]"),
        "s.yaml:6:",
        "unknown key 'refrence' in tasks[0] (did you mean 'reference'?)",
    ),
    "unknown environment": (
        text(tasks="[{name: a, dataset: x.hdf5, env: Hoper-v4}]"),
        "s.yaml:2:",
        "(did you mean 'Hopper-v4'?)",
    ),
    "reference upside down": (
        text(tasks="[{name: a, dataset: x.hdf5, env: Hopper-v4, reference: [1, 0]}]"),
        "s.yaml:2:",
        "reference",
    ),
    "half a reference": (
        text(tasks="[{name: a, dataset: x.hdf5, env: Hopper-v4, reference: [1]}]"),
        "s.yaml:2:",
        "tasks[0].reference has too few entries",
    ),
    "unknown reading of terminals": (
        text(tasks="[{name: a, dataset: x.hdf5, env: Hopper-v4, terminals: rules}]"),
        "s.yaml:2:",
        "tasks[0].terminals should be 'file' or 'rule', not \"rules\" (did you mean 'rule'?)",
    ),
    "no seeds": (text(seeds="0"), "s.yaml:3:", "seeds: should be a whole number from 1"),
    "empty seeds": (text(seeds="[]"), "s.yaml:3:", "seeds: should be a number n"),
    "seed twice": (text(seeds="[1, 1]"), "s.yaml:3:", "seeds: seed 1 is given twice"),
    "negative seed": (text(seeds="[0, -1]"), "s.yaml:3:", "seeds: every seed"),
    "true as seeds": (text(seeds="true"), "s.yaml:3:", "seeds: should be a number n"),
    "infinite seeds": (text(seeds=".inf"), "s.yaml:3:", "seeds: should be a whole number"),
    "unknown baseline": (text("baselines: [rebrac,\n  iqll]"), "s.yaml:6:", "(did you mean 'iql'?)"),
    "baseline twice": (text("baselines: [iql, iql]"), "s.yaml:5:", "baseline 'iql' is listed twice"),
    "unknown component": (text("components: {rebrc: {}}"), "s.yaml:5:", "unknown component 'rebrc' in components"),
    "unknown component field": (
        text("components:\n  rebrac:\n    stpes: 3"),
        "s.yaml:7:",
        "unknown key 'stpes' in components.rebrac (did you mean 'steps'?)",
    ),
    "not a number": (text("components: {rebrac: {actor_lr: .nan}}"), "s.yaml:5:", "components.rebrac.actor_lr"),
    "nested axis": (
        text("components: {rebrac: {steps: [[3]]}}"),
        "s.yaml:5:",
        "components.rebrac.steps should be a value",
    ),
    "unknown world model": (
        text("components: {world_model: {kind: difusion}}"),
        "s.yaml:5:",
        "(did you mean 'diffusion'?)",
    ),
    "unknown kind on an axis of kinds": (
        text("components:\n  world_model:\n    kind: [flow,\n      fow]"),
        "s.yaml:8:",
        "components.world_model: unknown kind of world model 'fow' (did you mean 'flow'?)",
    ),
    "field that one kind lacks": (
        text("components:\n  world_model:\n    kind: [diffusion, mlp]\n    denoising_steps: 4"),
        "s.yaml:8:",
        "components.world_model: kind 'mlp' has no field 'denoising_steps', only diffusion, flow",
    ),
    "field that the default kind lacks": (
        text("components: {world_model: {ensemble: 3}}"),
        "s.yaml:5:",
        "kind 'diffusion' has no field 'ensemble', only mlp",
    ),
    "field that the override's kind lacks": (
        text(
            "components: {world_model: {sampler: ddim}}\noverrides:\n- tasks: [hop*]\n"
            "  components: {world_model: {kind: flow}}"
        ),
        "s.yaml:5:",
        "kind 'flow' has no field 'sampler'",
    ),
    "misspelt field of a kind": (
        text("components: {world_model: {kind: [mlp, flow], hiden_dim: 3}}"),
        "s.yaml:5:",
        "unknown key 'hiden_dim' in components.world_model (did you mean 'hidden_dim'?)",
    ),
    "fewer training than sampling steps": (
        text("components: {world_model: {denoising_steps: 5, training_steps: 4}}"),
        "s.yaml:5:",
        "training_steps 4 is below denoising_steps 5",
    ),
    "kind of a component that has none": (
        text("components: {rebrac: {kind: big}}"),
        "s.yaml:5:",
        "unknown key 'kind' in components.rebrac",
    ),
    "override of no task": (
        text("overrides:\n- {tasks: [hop*, walker*]}"),
        "s.yaml:6:",
        "the pattern 'walker*' matches no task",
    ),
    "override of no planner": (
        text("overrides:\n- {tasks: [hop*], planners: {mpd: {H: 2}}}"),
        "s.yaml:6:",
        "(did you mean 'mpc'?)",
    ),
    "impossible override": (
        text("overrides:\n- tasks: [hop*]\n  planners: {mpc: {H: -2}}"),
        "s.yaml:7:",
        "overrides[0].planners.mpc.horizon should be",
    ),
    "no episodes": (text("evaluation: {episodes: 0}"), "s.yaml:5:", "evaluation.episodes should be"),
    "choosing on reported seeds": (
        text("evaluation:\n  select: {seeds: [1, 7], env_seed: 3}"),
        "s.yaml:6:",
        "seed 1 is in evaluation.select.seeds and in seeds",
    ),
    "choosing on reported episodes": (
        text("evaluation: {env_seed: 3, select: {seeds: [7], env_seed: 3}}"),
        "s.yaml:5:",
        "evaluation.select.env_seed",
    ),
    "unknown resource": (
        text("resources: {actor: {cpu: 1}}"),
        "s.yaml:5:",
        "in resources.actor (did you mean 'cpus'?)",
    ),
    "one and a half GPUs": (text("resources: {actor: {gpus: 1.5}}"), "s.yaml:5:", "actor.gpus: above 1 it should be"),
    "part of a GPU of which a tenth is left": (
        text("resources: {actor: {gpus: 0.3}}"),
        "s.yaml:5:",
        "resources.actor.gpus: should be 1/k, so that k processes fill a GPU, not 0.3: give 1/3 or 1/4",
    ),
    "hardly any GPU": (text("resources: {trial: {gpus: 0.001}}"), "s.yaml:5:", "should be 0 or at least 1/100"),
    "hundred thousand million episodes": (
        text("evaluation: {episodes: 100000000000}"),
        "s.yaml:5:",
        "evaluation.episodes should be less than or equal to 100000, not 100000000000",
    ),
    "number of 4000 digits": (
        text(f"evaluation: {{env_seed: {'9' * 4000}}}"),
        "s.yaml:5:",
        "evaluation.env_seed should",
    ),
    "seed that no file's column holds": (
        text("evaluation: {env_seed: 9223372036854775808}"),
        "s.yaml:5:",
        "evaluation.env_seed should be less than 4294967296",
    ),
    "more cores than there are": (text("resources: {trial: {cpus: 1e9}}"), "s.yaml:5:", "resources.trial.cpus should"),
    "baseline as papers write it": (text("baselines: [ReBRAC]"), "s.yaml:5:", "(did you mean 'rebrac'?)"),
    "home of nobody": (text("storage: ~no-such-user/runs"), "s.yaml:5:", "no home folder is known for that"),
    "dataset in the home of nobody": (
        text(tasks="[{name: a, dataset: ~no-such-user/x.hdf5, env: Hopper-v4}]"),
        "s.yaml:2:",
        "no home folder is known for that",
    ),
    "variable in storage": (text("storage: $HOME/runs"), "s.yaml:5:", "variables are not replaced in '$HOME/runs'"),
    "variable in braces": (text("storage: '${DATA}/runs'"), "s.yaml:5:", "variables are not replaced"),
    "variable in the records' place": (
        text("tracking: {uri: 'sqlite:///$HOME/mlflow.db'}"),
        "s.yaml:5:",
        "tracking.uri: variables are not replaced",
    ),
    "zero byte": (text('storage: "a\\0b"'), "s.yaml:5:", "a character that no name and no path can have"),
    "half of a pair of surrogates": (text('description: "\\ud800"'), "s.yaml:5:", "a character that no name"),
    "zero byte in a key": (text('"a\\0b": 3'), "s.yaml:5:", "a key has a character that no name can have"),
    "empty storage": (text("storage: ''"), "s.yaml:5:", "storage is empty"),
    "folder as tracking": (text("tracking: {uri: ./mlruns}"), "s.yaml:5:", "mlruns"),
    "nothing to do": (text("baselines: []", planners="{}"), "s.yaml:1:", "nothing to evaluate"),
    "two errors": (text("plannrs: {}\nevalution: {}"), "s.yaml:5:", "(and 1 more)"),
    # YAML itself
    "doubled key": (text("name: other"), "s.yaml:5:", "key 'name' is given twice, first on line 1"),
    "tab": ("name: a\nplanners:\n\tmpc: 3\n", "s.yaml:3:", "a tab where YAML wants spaces"),
    "unclosed list": (text("baselines: [iql"), "s.yaml:", "expected"),
    "list at the top": ("- a\n", "s.yaml:1:", "expected 'key: value' pairs at the top, not a list"),
    "nothing": ("# only a comment\n", "s.yaml:", "is empty"),
    "two documents": (text("---\nname: b"), "s.yaml:5:", "a second document begins here"),
    "python object": (text("storage: !!python/name:os.system x"), "s.yaml:5:", "is not allowed here"),
    "merge of a text": (text("storage: &a x\nresources: {<<: *a}"), "s.yaml:5:", "<< takes mappings"),
    "misspelt key in what is merged": (
        text("resources:\n  actor: &a {cpu: 1}\n  trial: {<<: *a}"),
        "s.yaml:6:",
        "unknown key 'cpu' in resources.actor (did you mean 'cpus'?) (and 1 more)",
    ),
    "merge of itself": (text("resources: &a\n  <<: *a"), "s.yaml:5:", "inside its own anchor"),
    "merges that multiply": (
        "a: &a {x: 1}\n"
        + "".join(
            f"{b}: &{b} {{<<: [{','.join(['*' + a] * 9)}]}}\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
        ),
        "s.yaml:1:",
        "do aliases",
    ),
    "a directive of YAML 1.1 and a set": (
        "%YAML 1.1\n---\n" + text("storage: !!set {a}"),
        "s.yaml:7:",
        "the tag !!set",
    ),
    "undefined alias": (text("storage: *b"), "s.yaml:5:", "undefined alias"),
    "alias in itself": (text("storage: &a [*a]"), "s.yaml:5:", "inside its own anchor"),
    "aliases that multiply": (
        "a: &a [x,x,x,x,x,x,x,x]\n"
        + "".join(f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
        "s.yaml:1:",
        "do aliases",
    ),
    "too deep": ("name: " + "[" * 5000, "s.yaml", "nested too deeply"),
    "list as a key": ("? [a]\n: 3\n", "s.yaml:1:", "a key has to be a plain word"),
    "control character": (b"name: a\nseeds: \x01\n", "s.yaml:2:", "a character that YAML does not allow"),
    "latin-1": ("name: a\n# für\n".encode("latin-1"), "s.yaml:2:", "is not UTF-8"),
    "endless number": (text(seeds="1" + "0" * 5000), "s.yaml:3:", "cannot be read as int"),
}
