"""Which ways to merge there are, and the table of them."""

from __future__ import annotations

from dataclasses import replace

from pipeline.blueprint import Adapter, Base, Blueprint, Quantization
from pipeline.proof.loss import Score
from pipeline.proof.variant_figures import Against, Model, VariantFigures
from pipeline.proof.variant_table import variant_table
from pipeline.proof.variants import folded, variants, wished_for

NF4 = Quantization("nf4", double_quant=True)
TRAINED = Blueprint(Base("base", quantization=NF4), adapters=(Adapter("adapter"),))
PLAIN = replace(TRAINED, base=Base("base"))
SAVED = replace(TRAINED, base=Base("base", quantization=replace(NF4, saved=True)))


def said(trained: Blueprint) -> dict[str, str]:
    return {variant.name: variant.said for variant in variants(trained)}


def test_a_quantized_base_can_be_merged_into_both_its_weights() -> None:
    assert said(TRAINED) == {
        "quantized": "dequantize: {from: quantized}, merge: {accumulate: peft}",
        "quantized_float32": "dequantize: {from: quantized}, merge: {accumulate: float32}",
        "original": "dequantize: {from: original}, merge: {accumulate: peft}",
        "original_float32": "dequantize: {from: original}, merge: {accumulate: float32}",
        "requantized": "dequantize: {from: quantized}, merge: {accumulate: peft}, quantized again",
    }
    assert wished_for(TRAINED) == PLAIN


def test_all_of_them_were_trained_on_the_same_model() -> None:
    for trained in (TRAINED, PLAIN, SAVED):
        assert all(variant.blueprint.trained() == trained for variant in variants(trained))
        assert folded(trained).trained() == trained


def test_of_a_plain_base_only_the_rounding_is_to_choose() -> None:
    assert said(PLAIN) == {
        "original": "merge: {accumulate: peft}",
        "original_float32": "merge: {accumulate: float32}",
    }
    assert wished_for(PLAIN) is None


def test_a_base_that_is_saved_quantized_has_no_original_weights() -> None:
    assert list(said(SAVED)) == ["quantized", "quantized_float32", "requantized"]
    assert wished_for(SAVED) is None
    again = variants(SAVED)[-1].requantized
    assert again == NF4  # the merged folder is not quantized yet


def test_the_table_has_only_what_was_measured() -> None:
    first, second, *_ = variants(TRAINED)
    modules = [Against(None, 0.0016, 1.0), Against(None, 0.09, 1.0)]
    found = [
        VariantFigures(first, 2_170_000, modules[0], modules[1], None),
        VariantFigures(second, 2_170_000, modules[1], modules[0], None),
    ]
    table = variant_table(found, Model(TRAINED, None), Model(PLAIN, None), None)
    assert table.splitlines() == [
        "                           trained   wished",
        "                     size  modules  modules",
        "quantized          2.2 MB    0.16%    9.00%",
        "quantized_float32  2.2 MB    9.00%    0.16%",
    ]
    scored = [replace(one, scores=[Score(-1.0, 2, 0), Score(-3.0, 2, 0)]) for one in found]
    table = variant_table(scored, Model(TRAINED, None), Model(PLAIN, None), None)
    assert table.splitlines()[2] == "quantized          2.2 MB  1.0000    0.16%    9.00%"
