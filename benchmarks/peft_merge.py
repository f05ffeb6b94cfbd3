"""The peer: what people run today. python benchmarks/peft_merge.py BASE ADAPTER OUTPUT bf16|nf4|saved-nf4"""

from __future__ import annotations

import sys

from peft import PeftModel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

base, adapter, output, kind = sys.argv[1:]
options = {}
if kind == "nf4":
    options["quantization_config"] = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
    )
model = AutoModelForCausalLM.from_pretrained(base, dtype="auto", **options)
if kind != "bf16":
    model = model.dequantize()
    model._weight_conversions = None  # with those of a base in 4 bits, save_pretrained fails
PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(output)
