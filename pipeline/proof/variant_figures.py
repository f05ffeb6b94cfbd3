"""What is measured of one way to merge: its folder against the trained and the wished-for model."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from pipeline import estimate
from pipeline.blueprint import Blueprint
from pipeline.checkpoint.publish import publishing
from pipeline.proof.compare import Difference, compare
from pipeline.proof.loss import Score, total
from pipeline.proof.module_tolerance import delta_kept
from pipeline.proof.modules import ModuleProof
from pipeline.proof.questions import Questions, Seen, ask
from pipeline.proof.variants import Variant, folded

if TYPE_CHECKING:
    from pipeline.manifest import Figure
    from pipeline.run import RunContext


@dataclass(frozen=True)
class Against:
    """How a merged model stands to another one."""

    whole: Difference | None
    """Of its predictions; None where the models do not fit in memory."""
    module_error: float | None
    """Mean over the merged modules of the relative error of their answers to random inputs; None where
    modules cannot be looked at by themselves."""
    kept: float | None
    """Share of the other's delta that is in the merged weights."""

    def recorded(self, prefix: str) -> dict[str, Figure]:
        """For the manifest."""
        found: dict[str, Figure] = {}
        if self.whole is not None:
            found |= {"error": self.whole.error, "kl": self.whole.kl, "top1": self.whole.top1}
        if self.module_error is not None:
            found |= {"mean_module_error": self.module_error, "delta_kept": self.kept}
        return {f"{prefix}.{name}": value for name, value in found.items()}


@dataclass(frozen=True)
class VariantFigures:
    """All that was measured of one way to merge."""

    variant: Variant
    bytes: int
    """Of the files of weights."""
    trained: Against
    wished: Against | None
    """None where nobody wishes for another model than the trained one."""
    scores: list[Score] | None
    """On the examples of the data."""

    @property
    def distance(self) -> float:
        """From the trained model: the mean KL of its predictions, or the mean error of its modules."""
        against = self.trained
        found = against.whole.kl if against.whole else against.module_error
        assert found is not None  # one of them is always measured
        return found

    @property
    def recorded(self) -> dict[str, Figure]:
        """For the manifest, under the variant's name."""
        name = self.variant.name
        found: dict[str, Figure] = {f"{name}.bytes": self.bytes}
        found |= self.trained.recorded(name)
        if self.wished:
            found |= self.wished.recorded(f"{name}.wished")
        if self.scores:
            found[f"{name}.loss"] = total(self.scores).mean
        return found


@dataclass(frozen=True)
class Model:
    """One that merges are held against."""

    blueprint: Blueprint
    """With its adapters attached."""
    seen: Seen | None
    """None where it does not fit in memory."""

    @property
    def scores(self) -> list[Score] | None:
        """On the examples of the data."""
        return self.seen.scores if self.seen else None


class Scales:
    """Weighs ways to merge: each is written to a folder of its own, measured, and removed."""

    def __init__(
        self,
        run: RunContext,
        trained: Model,
        wished: Model | None,
        asked: Questions | None,
        *,
        modules: bool,
    ) -> None:
        """`asked` is None where the models do not fit in memory; `modules` says whether each module is looked
        at by itself."""
        self._run, self._trained, self._wished, self._asked = run, trained, wished, asked
        self._modules = modules

    def weigh(self, variant: Variant) -> VariantFigures:
        """Measure one way. Whatever the merge raises is raised."""
        run = self._run
        with _folder(run) as folder:
            plain = folder / "merged"
            size = _write(run, variant.blueprint, plain)
            base = replace(variant.blueprint.base, model=str(plain), revision=None, dtype=None)
            served = Blueprint(replace(base, quantization=variant.requantized))
            if variant.requantized:
                size = self._size_of_quantized(served, folder / "quantized")
            seen = ask(run.live(served), run, self._asked) if self._asked else None
            run.release()
            if variant.requantized and self._modules:
                plain = folder / "plain"
                _write(run, replace(served, dequantize=True), plain)
            return VariantFigures(
                variant,
                size,
                self._against(self._trained, seen, plain),
                self._against(self._wished, seen, plain) if self._wished else None,
                seen.scores if seen else None,
            )

    def _size_of_quantized(self, served: Blueprint, folder: Path) -> int:
        """Bytes on disk; estimated where the model does not fit in memory, which its writing needs."""
        return _write(self._run, served, folder) if self._asked else estimate.saved_bytes(served)

    def _against(self, model: Model, seen: Seen | None, folder: Path) -> Against:
        whole = compare(model.seen.logits, seen.logits) if model.seen and seen else None
        if not self._modules:
            return Against(whole, None, None)
        proof = ModuleProof(folded(model.blueprint), folder)
        with self._run.bar("comparing modules", proof.bytes, unit="B") as bar:
            found = list(proof.figures(bar.advance))
        return Against(whole, fmean(one.error for one in found), delta_kept(found))


@contextmanager
def _folder(run: RunContext) -> Iterator[Path]:
    """A hidden folder in the run's, for models that are gone again afterwards; also one that was killed."""
    folder = run.dir / f".{run.step_id}"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(run: RunContext, blueprint: Blueprint, folder: Path) -> int:
    """Write a model as `save` would, and return the bytes of its weights."""
    from pipeline.realise import write_model

    before = run.state
    run.state = before.with_blueprint(blueprint)
    try:
        with publishing(folder, overwrite=False) as partial:
            return write_model(run, partial, dtype="keep", max_shard_size="5GB").bytes
    finally:
        run.state = before
