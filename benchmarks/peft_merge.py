"""The peer: what people run today. python benchmarks/peft_merge.py BASE ADAPTER OUTPUT [nf4]"""

from __future__ import annotations

import sys

from peft import PeftModel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

base, adapter, output, *quantization = sys.argv[1:]
if quantization:
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
    )
    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto", quantization_config=config)
    model = model.dequantize()
else:
    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(output)
