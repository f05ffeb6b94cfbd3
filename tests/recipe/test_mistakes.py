"""Every mistake of a recipe and its command line comes out with its place, key, and what to do."""

from __future__ import annotations

import pytest

from pipeline.errors import COMMAND_LINE, Place
from tests.fixtures.recipes import BASE, in_line
from tests.recipe.conftest import Problems

MISTAKES = [
    # what is in line 5, where it is wrong, key, words of what is wrong, words of what to do
    ("- mrege", 5, None, "there is no step 'mrege'", "did you mean 'merge'?"),
    ("- xyzzy: {a: 1}", 5, None, "there is no step 'xyzzy'", "the steps are attach_adapter"),
    (
        "- save: {dtpye: float16}",
        12,
        "save.dtpye",
        "`save` has no option 'dtpye'",
        "did you mean 'dtype'?",
    ),
    (
        "- save: {dtype: floot16}",
        12,
        "save.dtype",
        "must be one of keep, float32",
        "did you mean 'float16'?",
    ),
    ("- save: {path: 3}", 12, "save.path", "must be text, got 3", "write it in quotes"),
    ("- save: {overwrite: 1}", 12, "save.overwrite", "must be true or false, got 1", None),
    (
        "- save: {overwrite: 'true'}",
        12,
        "save.overwrite",
        "must be true or false",
        "without quotes",
    ),
    ("- save: {path: [a]}", 12, "save.path", "must be text, got ['a']", None),
    ("- save: {path: }", 12, "save.path", "must be text, got nothing", None),
    ("- train_adapter: {data: d, r: 0}", 30, "train_adapter.r", "must be at least 1, got 0", None),
    (
        "- train_adapter: {data: d, r: eight}",
        30,
        "train_adapter.r",
        "must be a whole number, got 'eight'",
        None,
    ),
    (
        "- train_adapter: {data: d, r: '8'}",
        30,
        "train_adapter.r",
        "must be a whole number",
        "without quotes",
    ),
    (
        "- train_adapter: {data: d, r: 1.5}",
        30,
        "train_adapter.r",
        "must be a whole number, got 1.5",
        None,
    ),
    (
        "- train_adapter: {data: d, dropout: 1}",
        30,
        "train_adapter.dropout",
        "must be less than 1, got 1",
        None,
    ),
    ("- train_adapter: {data: d, alpha: .nan}", 30, "train_adapter.alpha", "got nan", None),
    (
        "- generate: {prompts: hello}",
        16,
        "generate.prompts",
        "must be a list, got 'hello'",
        "['hello']",
    ),
    ("- generate: {prompts: []}", 16, "generate.prompts", "a list of 1 or more", None),
    ("- generate: {prompts: [a, 3]}", 29, "generate.prompts.1", "must be text, got 3", "quotes"),
    ("- generate", 5, "generate.prompts", "is required", "generate.prompts=VALUE"),
    (
        "- generate: {prompts: '???'}",
        16,
        "generate.prompts",
        "is required",
        "generate.prompts=VALUE",
    ),
    (
        "- load_base: {model: y, max_memory: {cpu: 3}}",
        40,
        "load_base_2.max_memory.cpu",
        "must be text",
        "quotes",
    ),
    (
        "- load_base: {preset: nf44, model: y}",
        5,
        "load_base_2",
        "no preset 'nf44'",
        "did you mean 'nf4'?",
    ),
    (
        "- load_base: {preset: [nf4], model: y}",
        17,
        "load_base.preset",
        "a preset is a plain name",
        None,
    ),
    ("- save: ../../conf", 5, "save.preset", "a preset is a plain name", None),
    ("- save: 3", 5, "save", "takes a preset or a mapping of options, got 3", None),
    ("- save: {id: params}", 12, "save.id", "cannot be the id", "choose another"),
    ("- save: {id: 'a b'}", 12, "save.id", "must be a plain name", "choose another"),
    (
        "- save: {path: a, path: b}",
        21,
        "save.path",
        "a second time; the first is in line 5",
        "remove",
    ),
    (
        "- save: {path: '${params.dtpye}'}",
        12,
        "save.path",
        "${params.dtpye} names nothing",
        "${params.dtype}",
    ),
    (
        "- save: {path: '${load_base.model}'}",
        12,
        "save.path",
        "names nothing",
        "${steps.load_base.model}",
    ),
    ("- save: {path: '${dtype}'}", 12, "save.path", "names nothing", "${params.dtype}"),
    ("- save: {path: 'x/${'}", 12, "save.path", "cannot be read", "${params.name}"),
    ("- save: {path: '${steps.save.path}'}", 12, "save.path", "refers to itself", None),
    (
        "- save: {path: '${oc.env:NOT_SET_AT_ALL}'}",
        12,
        "save.path",
        "NOT_SET_AT_ALL is not set",
        "default",
    ),
    ("- save: {path: '${magic:1}'}", 12, "save.path", "nothing called 'magic'", "${params.name}"),
    ("- save: {_target_: os.system}", 12, "save._target_", "cannot name code", "remove it"),
    (
        "- merge",
        5,
        "merge",
        "needs an adapter, and no step before it makes one",
        "`- attach_adapter`",
    ),
    ("- 3", 5, None, "3 is not the name of a step", "- load_base"),
    ("-", 4, None, "an empty item", "- load_base"),
    ("- {}", 5, None, "an empty item", "- load_base"),
    ("- {save: , merge: }", 5, None, "several keys: `save`, `merge`", "indent"),
]


@pytest.mark.parametrize(
    ("line", "column", "key", "what", "fix"), MISTAKES, ids=[m[0] for m in MISTAKES]
)
def test_a_mistake_in_a_step(
    problems_of: Problems, line: str, column: int, key: str | None, what: str, fix: str | None
) -> None:
    (problem,) = problems_of(in_line(line))
    assert problem.place == Place("r.yaml", 5, column)
    assert problem.key == key
    assert what in problem.what
    assert (fix or "") in (problem.fix or "")


HEADS = [
    ("hydra: {run: {dir: x}}", None, "a recipe cannot set 'hydra'", "hydra.run.dir=DIR"),
    ("defaults: [x]", None, "a recipe cannot set 'defaults'", "`- load_base: nf4`"),
    ("tracking: wandb", None, "a recipe cannot set 'tracking'", "tracking=..."),
    ("workers: ray", None, "a recipe cannot set 'workers'", "workers=..."),
    ("run: {dir: x}", None, "a recipe cannot set 'run'", "hydra.run.dir=DIR"),
    ("naem: x", None, "there is no key 'naem'", "did you mean 'name'?"),
    ("save: {path: x}", None, "there is no key 'save'", "in the list `steps`"),
    ("name: a/b", "name", "must be a plain name", ""),
    ("name: 3", "name", "must be a plain name", ""),
    ("seed: '12'", "seed", "must be a whole number", "without quotes"),
    ("seed: -1", "seed", "must be at least 0", ""),
    ("engine: fast", "engine", "must be one of auto, stream, live", ""),
    ("device: gpu", "device", "must be text such as auto, cpu, cuda, cuda:1, mps", ""),
    ("tags: x", "tags", "must be a list", "['x']"),
    ("params: [a]", "params", "must be a mapping", ""),
    ("params: {_target_: x}", "params._target_", "cannot name code", ""),
]


@pytest.mark.parametrize(("line", "key", "what", "fix"), HEADS, ids=[h[0] for h in HEADS])
def test_a_mistake_beside_the_steps(
    problems_of: Problems, line: str, key: str | None, what: str, fix: str
) -> None:
    (problem,) = problems_of(f"{BASE}{line}\n")
    assert problem.place is not None
    assert (problem.place.file, problem.place.line, problem.key) == ("r.yaml", 3, key)
    assert what in problem.what
    assert fix in (problem.fix or "")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: x\n", "the recipe has no steps"),
        ("steps:\n", "the recipe has no steps"),
        ("steps: []\n", "the recipe has no steps"),
        ("steps: {load_base: {model: x}}\n", "must be a list"),
        ("steps: load_base\n", "must be a list"),
        ("", "the file is empty"),
    ],
)
def test_a_recipe_without_a_list_of_steps(problems_of: Problems, text: str, words: str) -> None:
    (problem,) = problems_of(text, "save.dtype=float16", "merge.safe=false")
    assert words in problem.what


SAID = [
    ("save.dtpye=float16", "save.dtpye", "`save` has no option 'dtpye'", "did you mean 'dtype'?"),
    ("svae.dtype=float16", "svae.dtype", "no step or key 'svae'", "did you mean 'save'?"),
    ("merge.safe=false", "merge.safe", "the recipe has no step 'merge'", ""),
    ("save.dtype=floot16", "save.dtype", "must be one of keep", "did you mean 'float16'?"),
    ("load_base=nf44", "load_base", "no preset 'nf44'", "did you mean 'nf4'?"),
    ("step/load_base=nf44", "load_base", "no preset 'nf44'", "did you mean 'nf4'?"),
    ("step/laod_base@steps.load_base=nf4", "step/laod_base", "no step 'laod_base'", "'load_base'"),
    (
        "step/merge@steps.merge=default",
        "step/merge@steps.merge=default",
        "no one step",
        "load_base, save",
    ),
    ("params.bsae=x", "params.bsae", "has no 'params.bsae'", "did you mean 'params.base'?"),
    ("params.base.deep=x", "params.base.deep", "has no 'params.base.deep'", ""),
    ("save.path=a,b", "save.path", "has several values", "-m"),
    ("save.path=range(3)", "save.path", "has several values", "-m"),
    ("seed=x", "seed", "must be a whole number", ""),
    ("sede=3", "sede", "no step or key 'sede'", "'seed'"),
    ("steps=[]", "steps", "can only be changed in the recipe", "~ID"),
    ("run.dir=x", "run.dir", "cannot be set", "hydra.run.dir=DIR"),
    ("save.preset=x", "save.preset", "by the step's id alone", "save=PRESET"),
    ("save.id=x", "save.id", "only be given in the recipe", ""),
    ("save=3", "save", "takes a preset", "mergeline steps save"),
    ("save={dtpye: x}", "save.dtpye", "no option 'dtpye'", "'dtype'"),
    ("save.path", None, "not of the form key=value", "save.path=VALUE"),
    ("save.path='x", None, "cannot be read", "quote"),
    ("=3", None, "no key before", ""),
    ("+params._target_=x", "params._target_", "cannot name code", ""),
    ("+params.x={_target_: y}", "params.x", "cannot name code", ""),
    ("save.path=${params.bsae}", "save.path", "names nothing", "${params.base}"),
    ("hydra.run.dri=x", "hydra.run.dri", "dri", ""),
    ("hydra/launcher=warp", "hydra/launcher", "Could not find 'hydra/launcher/warp'", ""),
    ("hydra.searchpath=[file:///nope]", "hydra.searchpath", "there is no folder /nope", ""),
    ("hydra.searchpath=[x", None, "cannot be read", ""),
    ("hydra.searchpath=3", "hydra.searchpath", "must be a list", ""),
    ("hydra.launcher._target_=os.system", "hydra.launcher._target_", "cannot name code", ""),
    ("hydra.run.dir=", "hydra.run.dir", "needs a folder", ""),
    ("hydra=3", "hydra", "must be a string or a list", ""),
    ("~seed", "seed", "cannot be taken away", "seed=VALUE"),
    ("~params", "params", "cannot be taken away", ""),
    ("+nothing=x", "nothing", "no step or key 'nothing'", ""),
]


@pytest.mark.parametrize(("said", "key", "what", "fix"), SAID, ids=[s[0] for s in SAID])
def test_a_mistake_on_the_command_line(
    problems_of: Problems, said: str, key: str | None, what: str, fix: str
) -> None:
    (problem,) = problems_of(f"params: {{base: x}}\n{BASE}  - save\n", said)
    assert problem.place == COMMAND_LINE
    assert problem.key == key
    assert what in problem.what
    assert fix in (problem.fix or "")
    assert "append" not in str(problem)
