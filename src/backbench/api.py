"""The public Python API: the commands as functions that return objects.

Importing this module imports nothing heavy; torch comes with the first call that needs it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from backbench.arguments import check_budget, check_top, list_methods, list_models, make_data_config, to_text
from backbench.results import Ranking, Run

if TYPE_CHECKING:
    from pathlib import Path

    from backbench.arguments import Methods, Source
    from backbench.classifier.classifier import Classifier
    from backbench.config import OnBad
    from backbench.runs.evaluate import Evaluation


def rank(
    data: Source,
    models: Source | Sequence[Source] | None = None,
    methods: Methods = ("logistic",),
    *,
    seed: int = 0,
    split: Source | None = None,
    limit: int | None = None,
    train_limit: int | None = None,
    on_bad: OnBad = "fail",
    image_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    split_column: str | None = None,
    image_root: Source | None = None,
    split_folders: Mapping[str, str] | None = None,
    ignore: Sequence[str] = (),
    follow_links: bool = False,
    test_fraction: float = 0.2,
    val_fraction: float = 0.2,
    min_images: int | None = None,
    small_classes: str = "drop",
    top: int | None = None,
    budget_seconds: float | None = None,
    precision: str = "auto",
    device: str = "auto",
    exact_resize: bool = False,
    out: Source = "runs",
    quiet: bool = False,
) -> Ranking:
    """Rank models x methods on images, as `backbench rank` does; finished runs are reused.

    Args:
        data: a folder of class folders, one with train/ and test/, a CSV or Parquet table, or a name ('digits').
        models: names, cards or own runs; None: a short list that fits the data and the machine.
        methods: names, or a mapping of names to options: `{"two-phase": {"recipe": {"epochs": 3}}}`.
        seed: decides the split and everything random. split: a manifest or CSV with the splits to use instead.
        limit: maximum number of images, for trials. train_limit: the same for training and validation; the whole
            test set is used.
        on_bad: 'fail' raises an error for unreadable images; 'skip' leaves them out.
        image_column, label_column, group_column, split_column: column names of a table; split_column 'none': no
            such column.
        image_root: folder of a table's relative paths.
        split_folders: maps top folders to splits; {}: every top folder is a class.
        ignore, follow_links: for folders: paths to leave out; whether to follow links that lead out of the folder.
        test_fraction, val_fraction: share of each class, where no split is given; validation takes
            its share of the images left after the test split.
        min_images, small_classes: smaller classes are left out ('drop') or merged into one ('merge').
        top: methods that train run on this many models only: the best by their probes.
        budget_seconds: time limit; the ranking holds the runs finished by then.
        precision: 'auto', 'fp32' or 'bf16'. device: 'auto', 'cpu', 'cuda', 'cuda:N' or 'mps'.
        exact_resize: resize with Pillow, to reproduce published figures.
        out: folder of the run records.
        quiet: print nothing to stderr.

    Raises:
        BackbenchError: see `runs.rank.rank`. Interrupted: stopped before any run finished.
    Cost: see `runs.rank.rank`. An interrupt returns the ranking of the finished runs.
    """
    arguments = locals()
    import signal
    from pathlib import Path

    from backbench.backbones.card_folders import expand_cards
    from backbench.errors import Interrupted
    from backbench.progress import make_progress
    from backbench.registry import find_model
    from backbench.runs.rank import RankRequest
    from backbench.runs.rank import rank as rank_models
    from backbench.runtime import decide_device, decide_precision

    check_budget(budget_seconds)
    model_names, method_configs = list_models(models), list_methods(methods)
    check_top(top, method_configs)
    for name in expand_cards(model_names, "models"):
        find_model(name, "models")
    decided = decide_device(device)
    request = RankRequest(
        data=make_data_config(arguments),
        models=model_names,
        methods=method_configs,
        seed=seed,
        precision=decide_precision(precision, decided),
        training_precision=decide_precision(precision, decided, training=True),
        device=decided,
        exact_resize=exact_resize,
        out=Path(out).resolve(),
        top=top,
        budget_seconds=budget_seconds,
    )
    with make_progress(quiet=quiet) as progress:
        ranked = rank_models(request, progress)
    if not ranked.rows:
        raise Interrupted(signal.SIGINT)
    return Ranking(ranked)


def adapt(
    data: Source,
    model: Source,
    method: str = "two-phase",
    options: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    split: Source | None = None,
    limit: int | None = None,
    train_limit: int | None = None,
    on_bad: OnBad = "fail",
    image_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    split_column: str | None = None,
    image_root: Source | None = None,
    split_folders: Mapping[str, str] | None = None,
    ignore: Sequence[str] = (),
    follow_links: bool = False,
    test_fraction: float = 0.2,
    val_fraction: float = 0.2,
    min_images: int | None = None,
    small_classes: str = "drop",
    budget_seconds: float | None = None,
    precision: str = "auto",
    device: str = "auto",
    exact_resize: bool = False,
    out: Source = "runs",
    with_gallery: bool = True,
    quiet: bool = False,
) -> Run:
    """Adapt one model to images and save it, as `backbench adapt` does; call again to resume after an interrupt.

    Args:
        model: a name, a card file, or your own run or bundle to continue from.
        method: see `backbench list methods`.
        options: options of the method that differ from its defaults: `{"blocks": 3, "recipe": {"epochs": 20}}`.
        budget_seconds: time limit; the best weights reached by then are kept.
        with_gallery: put small training and test images into the bundle.
        data, seed and the rest: as for `rank`.

    Raises:
        BackbenchError: see `runs.run.adapt`. Interrupted: stopped; the work so far is saved.
    """
    arguments = locals()
    from pathlib import Path

    from backbench.config import RunConfig
    from backbench.progress import make_progress
    from backbench.registry import find_method, find_model
    from backbench.runs.context import RunContext, deadline_after, stoppable
    from backbench.runs.identity import resolve
    from backbench.runs.run import adapt as adapt_model
    from backbench.runtime import decide_device, decide_precision

    check_budget(budget_seconds)
    decided = decide_device(device)
    (method_config,) = list_methods({method: options or {}})
    trains = find_method(method, "method").trains
    spec = find_model(to_text(model, "model", "a name, a card file, or your own run or bundle"), "model")
    config = RunConfig(
        data=make_data_config(arguments),
        model=spec.name,
        model_file=spec.file,
        method=method_config,
        seed=seed,
        precision=decide_precision(precision, decided, training=trains),
        exact_resize=exact_resize,
    )
    with make_progress(quiet=quiet) as progress:
        how = RunContext(
            out=Path(out),
            device=decided,
            deadline=deadline_after(budget_seconds),
            with_gallery=with_gallery,
            progress=progress,
        )
        with stoppable(how) as context:
            adapted = adapt_model(resolve(config, spec), context)
    return Run(adapted.run.resolve())


def evaluate(
    bundles: Source | Sequence[Source],
    data: Source,
    *,
    split: Source | None = None,
    on_bad: OnBad = "fail",
    image_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    split_column: str | None = None,
    image_root: Source | None = None,
    split_folders: Mapping[str, str] | None = None,
    ignore: Sequence[str] = (),
    follow_links: bool = False,
    precision: str = "fp32",
    device: str = "auto",
    exact_resize: bool = False,
    class_map: Mapping[str, str | None] | None = None,
    out: Source | None = None,
    quiet: bool = False,
) -> list[Evaluation]:
    """Evaluate finished models on labelled images, as `backbench evaluate` does; best first.

    Args:
        bundles: one bundle or several: their folders, or the folders of the runs that wrote them. Several are
            compared on the images that none of them was trained on, by paired tests (`rank` of each result).
        data: as for `rank`. Evaluates on its test split, else on the test split of the model's own run, else on
            all images.
        class_map: maps classes of the images to classes of the model where names differ; None leaves images out.
        out: folder of run records that logs this evaluation; None: the folder of each bundle's run, if any.
        split and the rest: as for `rank`.

    Raises:
        BackbenchError: see `runs.evaluate.evaluate`.
    Cost: one pass over the images for each bundle.
    """
    arguments = locals() | {"seed": 0}
    from pathlib import Path

    from backbench.progress import make_progress
    from backbench.runs.evaluate import evaluate as evaluate_bundles
    from backbench.runtime import decide_device, decide_precision

    given = [bundles] if isinstance(bundles, str | os.PathLike) else bundles
    decided = decide_device(device)
    with make_progress(quiet=quiet) as progress:
        return evaluate_bundles(
            [to_text(bundle, "bundles", "the folder of a bundle or of the run that wrote it") for bundle in given],
            make_data_config(arguments),
            device=decided,
            precision=decide_precision(precision, decided),
            exact_resize=exact_resize,
            class_map={name: [] if mine is None else [mine] for name, mine in (class_map or {}).items()},
            out=None if out is None else Path(out),
            progress=progress,
        )


def open_run(run: Source, *, out: Source = "runs") -> Run:
    """Open the run in a folder, or the run in the folder `out` whose id starts with this text.

    Raises:
        ConfigError: no such run; the message names the nearest. StorageError: the record is damaged.
    """
    from pathlib import Path

    from backbench.records.folders import find_run

    return Run(find_run(Path(out), os.fspath(run)).resolve())


def open_ranking(folder: Source = "runs", *, data: str | None = None) -> Ranking:
    """Open the runs in a folder as a ranking; nothing is computed again.

    Args:
        folder: the folder given as `out` to `rank`.
        data: name of the data set, if the folder holds runs on several.

    Raises:
        ConfigError: no runs, or runs on several sets of test images. StorageError: no run can be read.
    """
    from dataclasses import replace
    from pathlib import Path

    from backbench.errors import ConfigError, shown, unknown_name
    from backbench.explain.evidence import open_rankings
    from backbench.wording import did_you_mean, join_names

    given = (to_text(folder, "folder", "the folder of the runs"),)
    if not Path(given[0]).exists():
        beside, way = _names_beside(Path(given[0])), "Give the folder that was out= in rank."
        hint = did_you_mean(Path(given[0]).name, beside, otherwise=way)
        raise ConfigError(f"there is no such folder: {shown(given[0])}.{hint}")
    opened, left_out = open_rankings(given, Path(given[0]).parent)
    found = [Ranking(replace(ranked, warnings=(*ranked.warnings, *left_out))) for ranked in opened]
    chosen = [ranking for ranking in found if data is None or ranking.data_name == data]
    if data is not None and not chosen:
        raise unknown_name(
            "data set", data, (ranking.data_name for ranking in found), "data", f"the runs in {given[0]}"
        )
    if len(chosen) != 1:
        held = join_names([f"{ranking.data_name} ({len(ranking.rows)} runs)" for ranking in found], limit=6)
        asked = "" if data is None else f", {len(chosen)} of them named '{data}'"
        raise ConfigError(
            f"{os.fspath(folder)} holds runs on {len(found)} sets of test images{asked}: {held}. Runs on "
            "different test images can't be ranked together. Choose one with data=, or rank each in its own "
            "folder with out=."
        )
    return chosen[0]


def _names_beside(path: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in path.absolute().parent.iterdir() if entry.is_dir())
    except OSError:
        return []


def load(path: Source) -> Classifier:
    """Load the classifier of a bundle, ready to predict: `backbench.load("bundle").predict(["photo.jpg"])`.

    Args:
        path: the folder of the bundle, or of the run that wrote it.

    Raises:
        BackbenchError: not a bundle, damaged, or written by a newer backbench; see
            `classifier.bundle.load_bundle`.
    """
    from pathlib import Path

    from backbench.classifier.bundle import load_bundle

    return load_bundle(Path(path))
