"""What a stream has PEFT and transformers make, module by module, is what the live realiser makes whole.

The live realiser is held against plain calls in `test_live.py` and `test_kinds.py`. Here each window holds as
little as can be made apart, and both write the same folder, bit for bit. The tables say what streams: kinds
of adapter, architectures, precisions, and ways in which files of a base lie.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from peft import LoraConfig, PeftConfig
from safetensors.torch import load_file, save_file
from transformers import BitsAndBytesConfig

from pipeline.accounting import modular
from pipeline.accounting.choice import choose
from pipeline.accounting.claims import check_claims
from pipeline.blueprint import Adapter, Base, Blueprint, Engine, Fold, Quantization, State, Task
from pipeline.checkpoint import peft_types, transformers_types
from pipeline.checkpoint.adapter import inspect_adapter
from pipeline.checkpoint.base import inspect_base
from pipeline.errors import MergeError
from pipeline.proof.module_tolerance import default_module_tolerance
from pipeline.proof.modules import ModuleProof
from pipeline.realise import write_model
from pipeline.realise.stream import windows
from pipeline.recipe.model import Recipe
from pipeline.run import RunContext
from tests.fixtures.models import build_adapter, build_base
from tests.fixtures.session import Silent
from tests.parity.plain import assert_same_bits, config_of, tensors_of

Make = Callable[[], PeftConfig]
Change = Callable[[Path], None]


def lora(*targets: str, **options: Any) -> Make:
    """On attention unless told; `all-linear` is every linear layer."""
    where: Any = list(targets) or ["q_proj", "v_proj"]
    if where == ["all-linear"]:
        where = "all-linear"
    return lambda: LoraConfig(**{"r": 4, "lora_alpha": 7, "target_modules": where, **options})


def conv1d(*targets: str, **options: Any) -> Make:
    """For GPT-2, whose layers store the transpose."""
    return lora(*targets, fan_in_fan_out=True, **options)


def kind(name: str, *targets: str, **options: Any) -> Make:
    where = list(targets) or ["q_proj", "v_proj"]
    return lambda: getattr(peft, f"{name}Config")(**{"target_modules": where, **options})


@dataclass(frozen=True)
class Case:
    """A base, and what is done with it."""

    adapters: tuple[Make, ...] = (lora("all-linear"),)
    base: str = "llama"
    config: dict[str, Any] = field(default_factory=dict)
    """What is unusual about the base's config."""
    dtype: str = "bfloat16"
    files: Change | None = None
    """Lays out the base's files in another way, once the adapter is made."""
    vocabulary: int | None = None
    """Of the adapter's training, if it resized the base's."""
    load: dict[str, Any] = field(default_factory=dict)
    """Options of the blueprint's base."""
    how: dict[str, Any] = field(default_factory=dict)
    """Options of the blueprint itself."""
    one_fold_each: bool = False
    save: Any = "keep"


TASKS: dict[str, tuple[Task, str]] = {
    "t5": ("seq2seq_lm", "AutoModelForSeq2SeqLM"),
    "bert": ("feature_extraction", "AutoModel"),
    "bert classifier": ("sequence_classification", "AutoModelForSequenceClassification"),
    "whisper": ("speech_seq2seq", "AutoModelForSpeechSeq2Seq"),
    **dict.fromkeys(
        ("llava", "gemma3 with vision", "qwen2-vl"),
        ("image_text_to_text", "AutoModelForImageTextToText"),
    ),
}

KINDS: dict[str, Case] = {
    "LoRA of rank 200": Case((lora(r=200),)),
    "LoRA on some layers": Case((lora(layers_to_transform=[1]),)),
    "rsLoRA": Case((lora(use_rslora=True, modules_to_save=["norm"]),)),
    "patterns": Case(
        (lora(rank_pattern={"q_proj": 2}, alpha_pattern={"v_proj": 3}, use_dora=True),)
    ),
    "DoRA": Case((lora("all-linear", use_dora=True),)),
    "LoRA with its own bias": Case((lora(lora_bias=True),), config={"attention_bias": True}),
    "bias: all": Case((lora(bias="all"),), config={"attention_bias": True, "mlp_bias": True}),
    "bias: lora_only": Case((lora(bias="lora_only"),), config={"attention_bias": True}),
    "embeddings": Case((lora("embed_tokens", "q_proj"),)),
    "the head": Case((lora("lm_head"),)),
    "a saved head": Case((lora(modules_to_save=["lm_head"]),)),
    "saved ends": Case((lora(modules_to_save=["lm_head", "embed_tokens"]),)),
    "new tokens": Case((lora(modules_to_save=["lm_head", "embed_tokens"]),), vocabulary=330),
    "trained tokens": Case((lora(trainable_token_indices=[1, 5]),)),
    "trained tokens alone": Case(
        (lambda: peft.TrainableTokensConfig(token_indices=[1, 5], target_modules=["embed_tokens"]),)
    ),
    "tied: the head": Case((lora("lm_head", "q_proj"),), "qwen2"),
    "tied: the embedding": Case((lora("embed_tokens", "q_proj"),), "qwen2"),
    "tied: a saved head": Case((lora(modules_to_save=["lm_head"]),), "qwen2"),
    "tied: a saved embedding": Case((lora(modules_to_save=["embed_tokens"]),), "qwen2"),
    "tied: trained tokens": Case((lora(trainable_token_indices=[1, 5]),), "qwen2"),
    "tied: new tokens": Case(
        (lora(modules_to_save=["lm_head", "embed_tokens"]),), "qwen2", vocabulary=330
    ),
    "two adapters": Case((lora(use_dora=True), lora("k_proj", "v_proj", use_dora=True))),
    "two merges": Case((lora(use_dora=True), lora("k_proj", "v_proj")), one_fold_each=True),
    "two kinds": Case((kind("IA3", feedforward_modules=[]), lora("k_proj")), one_fold_each=True),
    "PiSSA": Case((lora(init_lora_weights="pissa"),)),
    "OLoRA": Case((lora(init_lora_weights="olora"),)),
    "EVA": Case((lora(init_lora_weights="eva", use_dora=True),)),
    "LoRA-GA": Case((lora(init_lora_weights="lora_ga"),)),
    "AdaLoRA": Case((kind("AdaLora", init_r=4, target_r=2, total_step=10),)),
    "BEFT": Case((kind("Beft"),), config={"attention_bias": True}),
    "BOFT": Case((kind("BOFT", boft_block_size=4),)),
    "C3A": Case((kind("C3A", block_size=16),)),
    "DEFT": Case((kind("Deft"),)),
    "DeLoRA": Case((kind("Delora"),)),
    "FourierFT": Case((kind("FourierFT", n_frequency=20),)),
    "GLoRA": Case((kind("Glora"),)),
    "GraLoRA": Case((kind("Gralora"),)),
    "HiRA": Case((kind("Hira"),)),
    "HRA": Case((kind("HRA", r=4),)),
    "IA3": Case((kind("IA3", "k_proj", "down_proj", feedforward_modules=["down_proj"]),)),
    "LN tuning": Case((kind("LNTuning", "input_layernorm"),)),
    "LoHa": Case((kind("LoHa", r=4),)),
    "LoKr": Case((kind("LoKr", r=4, alpha=4),)),
    "MiSS": Case((kind("Miss", r=4),)),
    "OFT": Case((kind("OFT", oft_block_size=8, r=0),)),
    "OSF": Case((kind("OSF"),)),
    "PEANuT": Case((kind("Peanut"),)),
    "PSOFT": Case((kind("Psoft"),)),
    "PVeRA": Case((kind("Pvera", "q_proj", "k_proj", "down_proj"),)),
    "RandLoRA": Case((kind("RandLora", "q_proj", "k_proj", "down_proj", r=4),)),
    "RoAd": Case((kind("Road", group_size=8),)),
    "SHiRA": Case((kind("Shira", r=4),)),
    "VB-LoRA": Case((kind("VBLoRA", r=4, num_vectors=16, vector_length=16, topk=2),)),
    "VeRA": Case((kind("Vera", "q_proj", "k_proj", "down_proj", r=4),)),
    "VeRA without its projections": Case(
        (kind("Vera", "q_proj", "k_proj", "down_proj", r=4, save_projection=False),)
    ),
    "WaveFT": Case((kind("WaveFT", n_frequency=20),)),
}

FUSED = ["experts.gate_up_proj", "experts.down_proj"]
ARCHITECTURES: dict[str, Case] = {
    "BERT": Case(base="bert"),
    "BERT, a classifier": Case(
        (lora("query", modules_to_save=["classifier"], task_type="SEQ_CLS"),), "bert classifier"
    ),
    "BERT, all biases": Case((lora("query", bias="all"),), "bert"),
    "BLOOM": Case(base="bloom"),
    "Falcon": Case(base="falcon"),
    "Gemma 3 with vision": Case(base="gemma3 with vision"),
    "GPT-2": Case((conv1d("all-linear"),), "gpt2"),
    "GPT-2, DoRA": Case((conv1d("c_attn", use_dora=True),), "gpt2"),
    "GPT-2, embeddings": Case((conv1d("wte", "c_attn"),), "gpt2"),
    "GPT-NeoX": Case(base="gpt-neox"),
    "LLaVA": Case(base="llava"),
    "Mamba": Case((lora("in_proj", "x_proj"),), "mamba"),
    "Mamba 2": Case((lora("in_proj"),), "mamba2"),
    "Mixtral": Case(base="mixtral"),
    "Mixtral, its experts": Case((lora("q_proj", target_parameters=FUSED),), "mixtral"),
    "OPT": Case(base="opt"),
    "Phi-3": Case((lora("qkv_proj", use_dora=True),), "phi3"),
    "Qwen2-VL": Case(base="qwen2-vl"),
    "Qwen3-MoE": Case(base="qwen3-moe"),
    "Qwen3-MoE, its experts": Case(
        (lambda: LoraConfig(r=4, target_modules=[], target_parameters=FUSED[:1]),), "qwen3-moe"
    ),
    "T5": Case(base="t5"),
    "T5, its embedding": Case((lora("shared", "q"),), "t5"),
    "Whisper": Case(base="whisper"),
    "Whisper, convolutions": Case((lora("conv1", "conv2", "q_proj"),), "whisper"),
}


def quantized(on: str, adapter: Make = lora(), base: str = "llama", **how: Any) -> Case:  # noqa: B008
    return Case(
        (adapter,), base, load={"quantization": QUANTIZED[on]}, how={"dequantize": True, **how}
    )


QUANTIZED = {
    "nf4": Quantization("nf4"),
    "nf4, scales too": Quantization("nf4", double_quant=True),
    "fp4": Quantization("fp4"),
    "int8": Quantization("int8"),
}
PRECISIONS: dict[str, Case] = {
    "float16": Case((lora(use_dora=True),), dtype="float16"),
    "float32": Case((lora(use_dora=True),), dtype="float32"),
    "float16, T5": Case(base="t5", dtype="float16"),
    "loaded as float32": Case((lora(use_dora=True),), load={"dtype": "float32"}),
    "saved as float16": Case((lora(use_dora=True),), save="float16"),
    "saved as float32, Mixtral": Case(base="mixtral", save="float32"),
    "recast only": Case((), "mixtral", save="float16"),
    **{f"{name} on load, DoRA": quantized(name, lora(use_dora=True)) for name in QUANTIZED},
    **{f"{name} on load, GPT-2": quantized(name, conv1d("c_attn"), "gpt2") for name in QUANTIZED},
    "nf4 on load, Mixtral": quantized("nf4", lora("q_proj"), "mixtral"),
    "nf4 on load, dequantized as float32": quantized(
        "nf4", lora(use_dora=True), dequantize_dtype="float32"
    ),
    "int8 on load, dequantized as float32": quantized("int8", dequantize_dtype="float32"),
}


def in_bits(**options: Any) -> Change:
    """Save the base quantized."""

    def save(folder: Path) -> None:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, quantization_config=BitsAndBytesConfig(**options)
        )
        model.save_pretrained(folder)

    return save


def keys(change: Callable[[str], str]) -> Change:
    """Other names of the tensors."""
    return tensors(lambda held: {change(key): tensor for key, tensor in held.items()})


def tensors(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Change:
    def rewrite(folder: Path) -> None:
        changed = change(load_file(folder / "model.safetensors"))
        whole = {key: tensor.contiguous() for key, tensor in changed.items()}
        save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})

    return rewrite


def with_head(factor: float) -> Change:
    """The tied head stored a second time, or another one in its place."""
    name = "model.embed_tokens.weight"
    return tensors(lambda held: {**held, "lm_head.weight": held[name].clone() * factor})


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def in_odd_shards(folder: Path) -> None:
    """Two files, neither in the order of the model, and an index that says less than it may."""
    held = load_file(folder / "model.safetensors")
    names = sorted(held, key=lambda name: name[::-1])
    files = {"b.safetensors": names[::2], "a.safetensors": names[1::2]}
    for file, part in files.items():
        save_file({name: held[name] for name in part}, folder / file)
    places = {name: file for file, part in files.items() for name in part}
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()


FOUR_BITS = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
SAVED = {"nf4": Quantization("nf4", saved=True), "int8": Quantization("int8", saved=True)}
ODD = lora("all-linear", use_dora=True)
FILES: dict[str, Case] = {
    "no prefix, GPT-2": Case(
        (conv1d("all-linear"),), "gpt2", files=keys(lambda key: key.removeprefix("transformer."))),
    "no prefix": Case((ODD,), files=keys(lambda key: key.removeprefix("model."))),
    "a prefix too many": Case((lora("query"),), "bert", files=keys(lambda key: f"bert.{key}")),
    "gamma and beta": Case(
        (lora("query"),), "bert",
        files=keys(lambda key: key.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta")),
    ),
    "tied, stored twice": Case((ODD,), "qwen2", files=with_head(1)),
    "tied, stored twice, the head merged": Case((lora("lm_head", "q_proj"),), "qwen2", files=with_head(1)),
    "tied, stored twice and not the same": Case((ODD,), "qwen2", files=with_head(2)),
    "tied, the head stored": Case(
        (ODD,), "qwen2", files=keys(lambda key: "lm_head.weight" if "embed_tokens" in key else key)
    ),
    "norms in float32": Case(
        (ODD,), files=tensors(lambda held: {k: t.float() if "norm" in k else t for k, t in held.items()})
    ),
    "odd shards": Case((ODD,), files=in_odd_shards),
    "odd shards, Mixtral": Case(base="mixtral", files=in_odd_shards),
    "pickled": Case((lora(),), files=pickled, load={"allow_pickle": True}),
    "saved nf4": Case(
        (ODD,), files=in_bits(**FOUR_BITS), load={"quantization": SAVED["nf4"]}, how={"dequantize": True}
    ),
    "saved nf4, scales too": Case(
        (ODD,), files=in_bits(**FOUR_BITS, bnb_4bit_use_double_quant=True),
        load={"quantization": replace(SAVED["nf4"], double_quant=True)}, how={"dequantize": True},
    ),
    "saved nf4, GPT-2": Case(
        (conv1d("c_attn"),), "gpt2",
        files=in_bits(**FOUR_BITS), load={"quantization": SAVED["nf4"]}, how={"dequantize": True},
    ),
    "saved int8": Case(
        (ODD,), files=in_bits(load_in_8bit=True), load={"quantization": SAVED["int8"]},
        how={"dequantize": True},
    ),
}  # fmt: skip

CASES = {**KINDS, **ARCHITECTURES, **PRECISIONS, **FILES}

# What PEFT says of these kinds: BOFT has a CUDA kernel, which is slower without; LN tuning was written for
# other norms; SHiRA uses sparse tensors; VeRA can make its projections again from a seed. The others are of
# the training, which is none here.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{start}")
    for start in (
        "Failed to load the CUDA extension",
        "Unsupported layer type",
        "Sparse invariant checks",
        "Setting boft_n_butterfly_factor",
        "Specified to not save vera_A",
        "Specified to not load vera_A",
        "Setting `save_embedding_layers` to `True`",
        "Model has `tie_word_embeddings=True`",
        ".init_lora_weights. is .eva. but",
        "lora with eva initialization",
        "The following (rank|alpha)_pattern keys did not match",  # that PEFT itself adds, for experts
    )
]


def build(case: Case, folder: Path) -> Blueprint:
    task, auto = TASKS.get(case.base, ("causal_lm", "AutoModelForCausalLM"))
    base = build_base(folder / "base", case.base, dtype=case.dtype, **case.config)
    described = [
        Adapter(
            str(
                build_adapter(
                    folder / f"adapter_{n}",
                    base,
                    make(),
                    seed=n,
                    auto_class=auto,
                    vocabulary=case.vocabulary,
                )
            ),
            name=f"adapter_{n}",
        )
        for n, make in enumerate(case.adapters)
    ]
    if case.files is not None:
        case.files(base)
    together = [described] if described else []
    folds = [[adapter] for adapter in described] if case.one_fold_each else together
    return Blueprint(
        Base(str(base), task=task, **case.load),
        folds=tuple(Fold(tuple(adapters)) for adapters in folds),
        **case.how,
    )


def written(case: Case, blueprint: Blueprint, folder: Path, engine: Engine) -> Path:
    recipe = Recipe("r", folder / "r.yaml", (), run_dir=folder, device="cpu", engine=engine)
    run = RunContext(recipe, Silent())  # type: ignore[arg-type]
    run.state = State(blueprint=blueprint)
    output = folder / engine
    output.mkdir()
    write_model(run, output, dtype=case.save, max_shard_size="5GB")
    return output


def test_every_type_that_streams_by_modules_is_in_the_table() -> None:
    types = {str(make().peft_type.value) for case in KINDS.values() for make in case.adapters}
    assert types == modular.MODULAR


def test_every_type_is_streamed_or_has_its_reason(tmp_path: Path) -> None:
    """What is left is told with a reason: types that need all of their layers, and those nobody tried."""
    mergeable = set(peft_types.type_names()) - peft_types.UNMERGEABLE.keys()
    assert mergeable - modular.MODULAR == {"ADAMSS", "FROD", "SUPERTUNING", "TINYLORA", "UNILORA"}


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (kind("TinyLora"), "depends on the layers before it"),
        (kind("UniLora"), "depends on all layers"),
        (kind("Frod"), "belong to groups of layers"),
        (lora(init_lora_weights="pissa_niter_4"), "draws anew"),
    ],
)
def test_what_needs_all_layers_at_once_goes_live_and_says_why(
    make: Make, why: str, tmp_path: Path
) -> None:
    choice = choose(build(Case((make,)), tmp_path), "keep", "auto")
    assert choice.engine == "live"
    assert why in choice.reason


def test_a_base_that_stays_quantized_goes_live(tmp_path: Path) -> None:
    case = Case((), load={"quantization": QUANTIZED["nf4"]})
    assert choose(build(case, tmp_path), "keep", "auto").reason == "the base stays quantized"


@pytest.mark.parametrize("name", transformers_types.INTERNALS)
def test_a_transformers_that_lost_what_parts_are_made_with_goes_live(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blueprint = build(Case((lora(use_dora=True),)), tmp_path)
    assert choose(blueprint, "keep", "auto").engine == "stream"
    own, other = Path(transformers.__file__).parent, tmp_path / "transformers"
    other.mkdir()
    for file in set(transformers_types.INTERNALS.values()):
        (other / file).write_text((own / file).read_text().replace(f"def {name}(", "def other("))
    monkeypatch.setattr(transformers_types, "_root", lambda: other)

    choice = choose(blueprint, "keep", "auto")

    assert choice.engine == "live"
    assert f"has no {name}(), with which parts of a model are made" in choice.reason


@pytest.mark.parametrize("name", CASES)
def test_modules_made_one_by_one_are_those_of_the_live_model(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "BUDGET", 1)
    case = CASES[name]
    blueprint = build(case, tmp_path)
    choice = choose(blueprint, case.save, "stream")
    assert choice.engine == "stream", choice.reason
    for adapter in blueprint.all_adapters:  # and the plan has nothing against them
        check_claims(inspect_adapter(adapter), inspect_base(blueprint.base))

    ours, live = (written(case, blueprint, tmp_path, engine) for engine in ("stream", "live"))

    assert_same_bits(tensors_of(ours), tensors_of(live))
    assert config_of(ours) == config_of(live)
    assert _called_wrong(blueprint, ours) == []


def _called_wrong(blueprint: Blueprint, folder: Path) -> list[str]:
    """What the proof of `verify` has against the modules of a right merge."""
    if not blueprint.folds:
        return []
    proof = ModuleProof(blueprint, folder)
    bounds = default_module_tolerance(proof.dtypes, len(blueprint.folds[-1].adapters))
    found = list(proof.figures(lambda count: None))
    assert found
    return [f"{one.name}: {said}" for one in found for said in bounds.broken_by(one)]


def without(adapter: Path, part: str) -> None:
    file = adapter / "adapter_model.safetensors"
    save_file({name: t for name, t in load_file(file).items() if part not in name}, file)


def test_a_module_that_the_adapter_should_fill_and_does_not_is_named(tmp_path: Path) -> None:
    """As the live model does, though no window would ever hold that module."""
    case = Case((lora(use_dora=True),))
    blueprint = build(case, tmp_path)
    without(tmp_path / "adapter_0", "layers.1.self_attn.v_proj")
    with pytest.raises(MergeError, match=r"lacks model\.layers\.1\.self_attn\.v_proj"):
        written(case, blueprint, tmp_path, "stream")


def test_a_tensor_that_no_module_takes_is_named(tmp_path: Path) -> None:
    case = Case((lora(use_dora=True),))
    blueprint = build(case, tmp_path)
    file = tmp_path / "adapter_0" / "adapter_model.safetensors"
    odd = "base_model.model.visual.patches.lora_A.weight"
    save_file({**load_file(file), odd: torch.ones(4, 4)}, file)
    with pytest.raises(MergeError, match=r"nothing in the base takes .*visual\.patches"):
        written(case, blueprint, tmp_path, "stream")


@pytest.mark.parametrize("engine", ["stream", "live"])
def test_a_module_that_the_config_does_not_target_is_not_merged_into(
    engine: Engine, tmp_path: Path
) -> None:
    """Its file holds whole factors for it, which a plain sum could take."""
    case = Case((lora("q_proj", "v_proj"),))
    blueprint = build(case, tmp_path)
    file = tmp_path / "adapter_0" / "adapter_model.safetensors"
    up = "base_model.model.model.layers.0.mlp.up_proj"
    odd = {f"{up}.lora_A.weight": torch.ones(4, 64), f"{up}.lora_B.weight": torch.ones(128, 4)}
    save_file({**load_file(file), **odd}, file)
    with pytest.raises(MergeError, match=r"`target_modules` leave out .*up_proj\.lora_A"):
        written(case, blueprint, tmp_path, engine)


@pytest.mark.parametrize("engine", ["stream", "live"])
def test_a_config_that_targets_nothing_merges_nothing(engine: Engine, tmp_path: Path) -> None:
    case = Case((lora("q_proj", "v_proj"),))
    blueprint = build(case, tmp_path)
    file = tmp_path / "adapter_0" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "target_modules": []}))
    with pytest.raises(MergeError, match="No `target_modules` passed"):
        written(case, blueprint, tmp_path, engine)


def test_nan_in_a_merged_module_is_named(tmp_path: Path) -> None:
    case = Case((lora(use_dora=True),))
    blueprint = build(case, tmp_path)
    base = tmp_path / "base"
    name = "model.layers.1.self_attn.q_proj.weight"
    tensors(lambda held: {**held, name: held[name] * float("nan")})(base)
    with pytest.raises(MergeError, match="NaN"):
        written(case, blueprint, tmp_path, "stream")


def test_tensors_that_the_model_does_not_know_are_kept_and_told_of(tmp_path: Path) -> None:
    extra = "model.mtp.0.weight"
    case = Case((lora(use_dora=True),), files=tensors(lambda held: {**held, extra: torch.ones(3)}))
    recipe = Recipe("r", tmp_path / "r.yaml", (), run_dir=tmp_path, device="cpu", engine="stream")
    console = Silent()
    run = RunContext(recipe, console)  # type: ignore[arg-type]
    run.state = State(blueprint=build(case, tmp_path))
    (tmp_path / "out").mkdir()
    write_model(run, tmp_path / "out", dtype="keep", max_shard_size="5GB")
    assert tensors_of(tmp_path / "out")[extra].equal(torch.ones(3))
    assert any("copied as they are" in text and extra in text for text in console.told)


@pytest.mark.parametrize("name", ["DoRA", "PiSSA", "OLoRA", "OSF", "PSOFT"])
def test_the_number_of_threads_changes_no_bit(name: str, tmp_path: Path) -> None:
    """Of layers so large that torch and LAPACK divide them among threads."""
    sizes = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 1}
    case = replace(KINDS[name], config=sizes)
    blueprint = build(case, tmp_path)
    before, found = torch.get_num_threads(), []
    for threads in (1, 4):
        torch.set_num_threads(threads)
        try:
            folder = tmp_path / str(threads)
            folder.mkdir()
            found.append(tensors_of(written(case, blueprint, folder, "stream")))
        finally:
            torch.set_num_threads(before)
    assert_same_bits(*found)
