"""What rounding does to merged modules: the figures that the bounds of `verify` stand on.

    python benchmarks/roundings.py

merges a rank-16 LoRA of several sizes into a layer of noise, in each dtype, and prints the largest error of
its modules and the shares of the delta that they kept.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM

DTYPES = ("float32", "float16", "bfloat16")
DELTAS = (0.3, 0.1, 0.03, 0.01, 0.005, 0.0025, 0.001, 0.0005)
"""Norms of the delta over that of the base."""
RECIPE = """\
steps:
  - load_base: {model: base}
  - attach_adapter: {path: adapter}
  - merge
  - save
  - verify: {proof: modules, max_module_error: null, max_delta_off: null, min_delta_kept: null}
"""


def make(folder: Path) -> None:
    """Bases in all dtypes, and an adapter whose delta is as large as the base."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=512,
        intermediate_size=1024,
        num_hidden_layers=1,
        num_attention_heads=8,
        vocab_size=64,
    )
    for dtype in DTYPES:
        base = LlamaForCausalLM(config).to(getattr(torch, dtype))
        base.save_pretrained(folder / dtype)
    model = get_peft_model(base.float(), LoraConfig(r=16, target_modules="all-linear"))
    for module in model.modules():
        if hasattr(module, "lora_B"):
            b = module.lora_B["default"].weight
            b.data.normal_()
            size = module.get_delta_weight("default").norm() / module.base_layer.weight.norm()
            b.data /= size
    model.save_pretrained(folder / "adapter")


def measure(folder: Path, dtype: str, delta: float) -> dict[str, dict[str, float]]:
    """The figures of each module after a merge."""
    run = folder / f"{dtype}-{delta}"
    command = [
        *(Path(sys.executable).with_name("mergeline"), "run", "recipe.yaml", "--quiet"),
        *(f"load_base.model={dtype}", f"attach_adapter.weight={delta}", f"hydra.run.dir={run}"),
    ]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return json.loads((run / "manifest.json").read_text())["steps"][-1]["modules"]


def main() -> None:
    table = Table("dtype", "delta / base", "error, at most", "delta kept")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make(folder)
        (folder / "recipe.yaml").write_text(RECIPE)
        for dtype in DTYPES:
            for delta in DELTAS:
                found = measure(folder, dtype, delta).values()
                kept = [module["delta_kept"] for module in found]
                error = max(module["error"] for module in found)
                table.add_row(
                    dtype, f"{delta:g}", f"{error:.2g}", f"{min(kept):.3f} to {max(kept):.3f}"
                )
    Console().print(table)


if __name__ == "__main__":
    main()
