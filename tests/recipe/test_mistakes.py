"""Every mistake of a recipe and its command line comes out with its place, key, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import COMMAND_LINE, Place
from tests.recipe.conftest import Problems

BASE = "steps:\n  - load_base: {model: x}\n"


def in_line(text: str) -> str:
    """A recipe with one line more, its fifth."""
    return f"params:\n  dtype: floot16\n{BASE}  {text}\n"


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


def test_all_mistakes_come_together_in_the_order_of_the_file(problems_of: Problems) -> None:
    text = (
        "seed: x\n"
        "params: {dtype: floot16}\n"
        "steps:\n"
        "  - lod_base: {model: x}\n"
        "  - attach_adapter\n"
        "  - save: {path: a, path: b, overwrite: 3}\n"
        "  - save: {dtype: '${params.dtype}', path: '${params.nope}'}\n"
    )
    found = problems_of(text, "save.dtpye=1", "params.nope=1", "save.max_shard_size=big")
    assert [(p.place.line if p.place else 0, p.key) for p in found] == [
        (1, "seed"),
        (2, "params.dtype"),
        (4, None),
        (5, "attach_adapter.path"),
        (6, "save.path"),
        (6, "save.overwrite"),
        (7, "save_2.path"),
        (None, "save.dtpye"),
        (None, "params.nope"),
        (None, "save.max_shard_size"),
    ]


def test_beside_a_step_that_is_not_understood_the_command_line_is_checked(
    problems_of: Problems,
) -> None:
    text = f"{BASE}  - svae: {{id: out}}\n  - svae\n  - save: 3\n"
    found = problems_of(
        text, "out.dtype=x", "save_2.dtype=x", "svae.x=1", "save=y", "other.dtype=x", "sede=1"
    )
    assert [p.key for p in found if p.place == COMMAND_LINE] == ["other.dtype", "sede"]


def test_beside_a_wrong_param_the_names_of_params_are_checked(problems_of: Problems) -> None:
    text = f"params: {{base: x, base: y}}\n{BASE}"
    _, said = problems_of(text, "params.bsae=x")
    assert said.fix == "did you mean 'params.base'?"


def test_what_only_hydra_finds_wrong_is_told_plainly(problems_of: Problems) -> None:
    (problem,) = problems_of(f"{BASE}  - save\n", "~save", "save.dtype=float16")
    assert (problem.key, problem.what) == ("save.dtype", "there is no key 'save'")


def test_two_steps_with_one_id_are_told_at_the_second(problems_of: Problems) -> None:
    (problem,) = problems_of(f"{BASE}  - save: {{id: out}}\n  - save: {{id: out, path: b}}\n")
    assert problem.place == Place("r.yaml", 4, 5)
    assert "line 3" in problem.what


def test_a_wrong_value_is_told_where_it_stands_and_how_it_is_used(problems_of: Problems) -> None:
    (problem,) = problems_of(in_line("- save: {dtype: '${params.dtype}'}"))
    assert (problem.place, problem.key) == (Place("r.yaml", 2, 3), "params.dtype")
    assert "(as save.dtype)" in problem.what


def test_a_wrong_value_that_nobody_wrote_is_told_where_it_is_used(problems_of: Problems) -> None:
    (problem,) = problems_of(in_line("- save: {dtype: '${run.dir}'}"))
    assert (problem.place, problem.key) == (Place("r.yaml", 5, 12), "save.dtype")


def test_a_value_from_the_command_line_is_told_there(problems_of: Problems) -> None:
    text = f"params: {{dtype: float16}}\n{BASE}  - save: {{dtype: '${{params.dtype}}'}}\n"
    (problem,) = problems_of(text, "params.dtype=half")
    assert (problem.place, problem.key) == (COMMAND_LINE, "params.dtype")


def test_what_depends_on_a_mistake_is_not_told_again(problems_of: Problems) -> None:
    text = (
        "params: {root: '${params.rot}', base: '${params.root}/b'}\n"
        "steps:\n  - load_base: {model: '${params.base}'}\n  - save: {path: '${params.root}/x'}\n"
    )
    (problem,) = problems_of(text)
    assert (problem.key, problem.place) == ("params.root", Place("r.yaml", 1, 10))


def test_a_cycle_is_told_for_its_members_only(problems_of: Problems) -> None:
    text = "params: {a: '${params.b}', b: '${params.a}'}\nsteps:\n  - load_base: {model: '${params.a}'}\n"
    assert [problem.key for problem in problems_of(text)] == ["params.a", "params.b"]


def test_a_param_that_must_be_given(problems_of: Problems) -> None:
    text = "params: {base: ???, other: ???}\nsteps:\n  - load_base: {model: '${params.base}'}\n"
    text = text.replace("???", "'???'")
    other, base = problems_of(text)
    assert (base.key, base.fix) == ("load_base.model", "on the command line: params.base=VALUE")
    assert (other.key, other.fix) == (
        "params.other",
        "give it on the command line: params.other=VALUE",
    )
    assert problems_of(text, "params.base=x", "params.other=y") == []


def test_steps_in_the_wrong_order_say_which_to_move(problems_of: Problems) -> None:
    text = "steps:\n  - load_base: {model: x}\n  - merge\n  - attach_adapter: {path: a}\n"
    (problem,) = problems_of(text)
    assert problem.place == Place("r.yaml", 3, 5)
    assert problem.fix == "move `attach_adapter` (line 4) up before it"


def test_a_missing_base_is_told_once(problems_of: Problems) -> None:
    (problem,) = problems_of("steps: [save, verify, dequantize]\n")
    assert (problem.key, problem.fix) == ("save", "put `- load_base` before it")


def test_a_trained_adapter_can_be_merged(problems_of: Problems) -> None:
    assert problems_of(f"{BASE}  - train_adapter: {{data: d}}\n  - merge\n") == []


def test_a_misspelt_step_makes_what_it_seems_to_be(problems_of: Problems) -> None:
    found = problems_of(
        "steps:\n  - lod_base: {model: x}\n  - attach_adapter: {path: a}\n  - merge\n"
    )
    assert [problem.place and problem.place.line for problem in found] == [2]


def test_presets_of_ones_own_are_checked_too(problems_of: Problems, tmp_path: Path) -> None:
    folder = tmp_path / "conf/step/save"
    folder.mkdir(parents=True)
    (folder / "bad.yaml").write_text("# mine\ndtype: floot16\nphat: x\n")
    (folder / "broken.yaml").write_text("dtype: [\n")
    found = problems_of(f"{BASE}  - save: bad\n  - save: broken\n", config_dir=tmp_path / "conf")
    assert [(str(p.place).rpartition("/")[2], p.key) for p in found] == [
        ("bad.yaml:2:1", "save.dtype"),
        ("bad.yaml:3:1", "save.phat"),
        ("broken.yaml:2:1", None),
    ]


def test_a_config_dir_that_is_not_there(problems_of: Problems, tmp_path: Path) -> None:
    (problem,) = problems_of(BASE, config_dir=tmp_path / "nope")
    assert (problem.place, problem.key) == (COMMAND_LINE, "--config-dir")
    assert "there is no folder" in problem.what


@pytest.mark.parametrize(
    ("file", "text", "said", "words"),
    [
        ("step/save/a.yaml", "defaults: {a: b}\n", "save=a", "defaults must be a list"),
        ("step/save/b.yaml", "defaults: [nope]\n", "save=b", "Could not load 'step/save/nope'"),
        ("step/save/c.yaml", "- a\n", "save=c", "must be a mapping"),
        (
            "more/d.yaml",
            "# @package _global_\nsteps: {extra: {a: 1}}\n",
            "+more=d",
            "is no step of the recipe's list",
        ),
        ("more/e.yaml", "a: [\n", "+more=e", "while parsing a flow node"),
    ],
)
def test_whatever_is_wrong_with_a_config_of_ones_own_is_a_problem(
    problems_of: Problems, tmp_path: Path, file: str, text: str, said: str, words: str
) -> None:
    path = tmp_path / "conf" / file
    path.parent.mkdir(parents=True)
    path.write_text(text)
    (problem,) = problems_of(f"{BASE}  - save\n", said, config_dir=tmp_path / "conf")
    assert words in problem.what


def test_what_is_left_out_on_the_command_line_can_be_missed(problems_of: Problems) -> None:
    (problem,) = problems_of(f"{BASE}  - save\n", "~load_base")
    assert (problem.key, problem.fix) == ("save", "put `- load_base` before it")
