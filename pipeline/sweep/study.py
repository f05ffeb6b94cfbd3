"""A search in optuna's terms. Nothing else of it knows optuna's distributions, samplers and storage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.recipe.search_space import Dimension, Interval

if TYPE_CHECKING:
    from optuna.study import Study

JOURNAL = "search.log"


def open_study(folder: Path, *, maximize: bool) -> Study:
    """The study whose journal is in a folder, or a new one."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(folder / JOURNAL))),
        study_name="search",
        direction="maximize" if maximize else "minimize",
        load_if_exists=True,
    )
    # The same seed again would propose again what the first trials were.
    study.sampler = optuna.samplers.TPESampler(seed=len(study.trials), constant_liar=True)
    return study


def distributions(space: Sequence[Dimension]) -> dict[str, Any]:
    """What optuna chooses from, by key."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    return {
        one.key: (
            CategoricalDistribution(one.options)
            if not isinstance(one, Interval)
            else IntDistribution(int(one.low), int(one.high), log=one.log)
            if one.whole
            else FloatDistribution(one.low, one.high, log=one.log)
        )
        for one in space
    }


def override(dimension: Dimension, params: Mapping[str, Any]) -> str:
    """What optuna chose, as it stands on a command line."""
    value = params[dimension.key]
    return dimension.override(value) if isinstance(dimension, Interval) else str(value)
