"""Ways to merge side by side, in a few lines for a person."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.proof.compare import Difference
from pipeline.proof.figures import columns
from pipeline.proof.loss import Score, total
from pipeline.proof.variant_figures import Against, Model, VariantFigures

_FIGURES = ("KL", "top-1", "modules")
_HEAD = (
    ("", "", "", *["trained"] * len(_FIGURES), *["wished"] * len(_FIGURES)),
    ("", "size", "loss", *_FIGURES, *_FIGURES),
)


def variant_table(
    found: Sequence[VariantFigures], trained: Model, wished: Model | None, apart: Difference | None
) -> str:
    """A line for each way to merge; before them those for the models that they are held against, which are
    so far `apart`. Rows and columns without a figure are left out.

    KL in nats; top-1 is the share of positions with the same likeliest token; modules the mean error of the
    merged modules on random inputs.
    """
    rows = [
        ["trained", "", _loss(trained.scores), "", "", "", *_distances(apart, None)],
        ["wished", "", _loss(wished.scores if wished else None), "", "", "", "", "", ""],
    ]
    for one in found:
        figures = [*_against(one.trained), *_against(one.wished)]
        size = f"{one.bytes / 1e6:,.1f} MB"
        rows.append([one.variant.name, size, _loss(one.scores), *figures])
    rows = [row for row in rows if any(row[1:])]
    kept = [n for n in range(len(rows[0])) if any(row[n] for row in rows)]
    lines = columns([[row[n] for n in kept] for row in (*_HEAD, *rows)])
    return "\n".join(line.rstrip() for line in lines)


def _loss(scores: Sequence[Score] | None) -> str:
    return "" if scores is None else f"{total(scores).mean:.4f}"


def _against(one: Against | None) -> list[str]:
    return _distances(one.whole, one.module_error) if one else [""] * len(_FIGURES)


def _distances(whole: Difference | None, modules: float | None) -> list[str]:
    return [
        f"{whole.kl:.2g}" if whole else "",
        f"{whole.top1:.1%}" if whole else "",
        "" if modules is None else f"{modules:.2%}",
    ]
