"""The command line: thin commands over the Python API. Results on stdout, progress on stderr.

Nothing heavy (torch, ray, mlflow) is imported before a command needs it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from trainables.datasets import dataset_names
from trainables.models.names import MODELS
from tuner.cli import cluster, results
from tuner.cli.options import DatasetAgain, HomeOption, Json, Pairs, StorageOption, _option
from tuner.errors import Failed, UsageError
from tuner.home import Home
from tuner.spec.validation import pairs

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Find how much to reweight adversarial training: the Pareto front of average against "
    "worst-class robust accuracy.",
)


def _pairs(given: list[str] | None, flag: str) -> dict[str, Any]:
    import yaml

    values = {}
    for item in given or []:
        key, equals, text = item.partition("=")
        if not equals or not key:
            raise UsageError(f"{flag} {item!r} is not allowed; write {flag} KEY=VALUE")
        try:
            values[key] = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError):  # ValueError: a date that there is not
            raise UsageError(
                f"{flag} {item!r} is not allowed; write {flag} KEY=VALUE with a VALUE that is valid YAML"
            ) from None
    return values


def _read(path: Path, what: str) -> dict[str, Any]:
    from tuner.spec.search_spec import load_mapping

    try:
        return load_mapping(path.read_text(), what)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the {what} file {str(path)!r} cannot be read: {error}") from None


def _merge(base: dict[str, Any], flags: dict[str, Any], fix: Pairs, set_: Pairs, space: Path | None) -> dict[str, Any]:
    """A spec file and flags mean the same fields; flags win (key by key for fix and set)."""
    merged = {**base, **{k: v for k, v in flags.items() if v is not None}}
    for field, changes in (("fix", _pairs(fix, "--fix")), ("set", _pairs(set_, "--set"))):
        if changes:
            merged[field] = {**pairs(field, merged.get(field) or {}), **changes}
    if space:
        merged["space"] = _read(space, "--space")
    return merged


def spec_of(given: dict[str, Any]):
    """The spec that `search`'s options mean; an option is the spec's field of the same name."""
    from dataclasses import fields

    from tuner.spec.search_spec import SearchSpec

    flags = {f.name: given.get(f.name) for f in fields(SearchSpec) if f.name not in ("fix", "set", "space")}
    if given["no_trunk"] and given["trunk"]:
        raise UsageError(f"--no-trunk and --trunk {given['trunk']!r} contradict each other; give one of them")
    flags.update(objectives=given["objective"], trunk="none" if given["no_trunk"] else given["trunk"])
    base = _read(given["spec"], "--spec") if given["spec"] else {}
    spec = SearchSpec.from_dict(_merge(base, flags, given["fix"], given["set_"], given["space"]))
    if given["dry_run"]:  # else the driver checks it, with the data
        _check_without_data(spec)
    return spec


def _check_without_data(spec) -> None:
    """What shows without data to be wrong with dataset, imbalance and model, in the driver's words."""
    from trainables.data import DataSpec, absolute
    from trainables.data.spec import validate_spec
    from trainables.models.check import check_model
    from trainables.models.names import parse_model

    try:
        validate_spec(DataSpec(absolute(spec.dataset), spec.imbalance, spec.seed))
        if parse_model(spec.model)[0] not in MODELS:
            check_model(spec.model, (3, 224, 224))  # the size that torchvision's are made for
    except ValueError as error:
        raise UsageError(str(error)) from None


@app.command()
def search(
    method: Annotated[
        Optional[list[str]], _option("Method, see `tuner methods`; repeat it: several share the budget [srat].")
    ] = None,
    dataset: Annotated[Optional[str], _option(f"One of {', '.join(dataset_names())} [digits].")] = None,
    imbalance: Annotated[
        Optional[str], _option("none, exp:K or step:K, K = largest class / smallest [exp:10].")
    ] = None,
    model: Annotated[
        Optional[str], _option(f"{', '.join(MODELS)} or torchvision's by name; ':0.5' halves the width [cnn].")
    ] = None,
    trials: Annotated[Optional[int], _option("Number of trials [16].")] = None,
    max_epochs: Annotated[Optional[int], _option("Epochs of a full trial [12].")] = None,
    seed: Annotated[Optional[int], _option("Seed of data split, training and sampler [0].")] = None,
    seeds: Annotated[
        Optional[int], _option("Train front members with so many seeds in all and draw the front on means [1].")
    ] = None,
    objective: Annotated[
        Optional[list[str]],
        _option("An objective, maximised; repeat for several [robust_acc, worst_class_robust_acc]."),
    ] = None,
    sampler: Annotated[
        Optional[str],
        _option(
            "auto, random, qmc, tpe, nsga2, nsga3, gp; auto: a Gaussian process in "
            "flat spaces, TPE in conditional ones [auto]."
        ),
    ] = None,
    scheduler: Annotated[
        Optional[str],
        _option("pareto-asha, asha, median or none: stop trials that fall behind [pareto-asha where two rungs fit]."),
    ] = None,
    asha_metric: Annotated[Optional[str], _option("What asha and median compare [the first objective].")] = None,
    reduction: Annotated[Optional[int], _option("One trial in so many passes a rung [2].")] = None,
    grace: Annotated[Optional[int], _option("Epochs from the reweighting start to the first rung [15 %].")] = None,
    on_rung: Annotated[
        Optional[str], _option("stop, or pause: who falls behind waits and may go on later [stop].")
    ] = None,
    constraint: Annotated[Optional[list[str]], _option("METRIC>=VALUE or <=, e.g. clean_acc>=0.8; repeatable.")] = None,
    smooth_worst: Annotated[
        Optional[str],
        _option(
            "cvar:0.2: sampler and scheduler see the mean of the worst 20 % of the classes instead of the worst one."
        ),
    ] = None,
    warm_start: Annotated[Optional[str], _option("An earlier search whose full trials the model learns from.")] = None,
    study_storage: Annotated[
        Optional[str],
        _option("Database of the Optuna study, sqlite:///FILE or postgresql://... [study.log in the search's folder]."),
    ] = None,
    fix: Annotated[Pairs, _option("KEY=VALUE: take a hyperparameter out of the search; repeatable.")] = None,
    set_: Annotated[Pairs, _option("KEY=VALUE: change a common training knob; repeatable.", "--set")] = None,
    space: Annotated[Optional[Path], _option("YAML file of ranges: narrow or replace what is searched.")] = None,
    spec: Annotated[Optional[Path], _option("YAML file with any of these fields; flags win.")] = None,
    trunk: Annotated[
        Optional[str],
        _option("auto: train the epochs before the reweighting once; at:N: start from N epochs of plain AT [auto]."),
    ] = None,
    no_trunk: Annotated[bool, typer.Option("--no-trunk", help="Every trial trains all its epochs itself.")] = False,
    storage: StorageOption = None,
    name: Annotated[Optional[str], _option("Name of the search [made of what it is].")] = None,
    experiment: Annotated[Optional[str], _option("MLflow experiment [DATASET-IMBALANCE-MODEL].")] = None,
    max_concurrent: Annotated[Optional[int], _option("Trials at a time [as many as fit].")] = None,
    cpus_per_trial: Annotated[Optional[float], _option("CPUs of one trial [1].")] = None,
    gpus_per_trial: Annotated[
        Optional[str], _option("GPUs of one trial, fractions too; auto: measured at the start [0].")
    ] = None,
    accelerator: Annotated[Optional[str], _option("Kind of GPU, as Ray calls it: H200, A100, L4 ... [any].")] = None,
    max_failures: Annotated[
        Optional[int], _option("Errors of its own after which a trial is given up; a lost node is none [2].")
    ] = None,
    time_budget: Annotated[Optional[float], _option("Seconds after which the search ends.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the merged spec and stop.")] = False,
    home: HomeOption = None,
    as_json: Json = False,
):
    """Search a method's reweighting values; prints the front of average against worst-class robust accuracy.

    Example: tuner search --method srat --dataset digits --trials 16
    """
    merged = spec_of(locals())
    if dry_run:
        for note in merged.notes:
            print(note, file=sys.stderr)
        print(json.dumps(merged.to_dict(), indent=1) if as_json else merged.to_yaml(), end="\n" if as_json else "")
        return
    _run(merged, Home(home), as_json)


@app.command()
def resume(
    search: Annotated[str, typer.Argument(help="Name of a search; see `tuner ls`.")],
    address: Annotated[Optional[str], _option("On this Ray cluster, as `tuner submit` would.")] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="With --address: show its progress, end with its exit code.")
    ] = False,
    dataset: DatasetAgain = None,
    study_storage: Annotated[Optional[str], _option("The search's, said again where it is a server.")] = None,
    home: HomeOption = None,
    storage: StorageOption = None,
    as_json: Json = False,
):
    """Go on with a search that was stopped or killed: nothing that is finished is trained again."""
    if address:
        said = {"storage": storage, "dataset": dataset, "study_storage": study_storage}
        cluster.resume(address, search, home, said, follow, as_json)
        return
    from tuner.results.searches import load_search
    from tuner.sync.named_places import check_named

    where = Home(home, storage)
    spec = load_search(where, search).spec
    check_named(spec, where, search, "resume", dataset=dataset, study_storage=study_storage)
    _run(spec, where, as_json)


def _run(spec, home: Home, as_json: bool) -> None:
    from tuner.errors import Interrupted
    from tuner.execution.driver import search as run
    from tuner.report.console import show_result

    try:
        result = run(spec, home)
    except Interrupted as stop:
        show_result(stop.result, spec, home, as_json)
        raise
    show_result(result, spec, home, as_json)
    if result["state"] == "failed":
        raise typer.Exit(1)


@app.command()
def ls(home: HomeOption = None, storage: StorageOption = None, as_json: Json = False):
    """The searches in the home folder, and in the storage if one is named."""
    from tuner.report.console import show_searches

    show_searches(Home(home, storage), as_json)


@app.command()
def methods(as_json: Json = False):
    """The methods that can be searched, with their hyperparameters."""
    from tuner.report.console import show_methods

    show_methods(as_json)


@app.command()
def space(method: Annotated[str, typer.Argument(help="A method; see `tuner methods`.")], as_json: Json = False):
    """A method's hyperparameters: default, range, meaning, condition."""
    from tuner.report.console import show_space

    show_space(method, as_json)


@app.command()
def sync(
    search: Annotated[str, typer.Argument(help="Name of a search; see `tuner ls`.")],
    home: HomeOption = None,
    storage: StorageOption = None,
):
    """Fill MLflow from a search's own history, e.g. after the server was away."""
    from tuner.execution.driver import fill_mlflow

    if not fill_mlflow(search, Home(home, storage), lambda line: print(line, file=sys.stderr)):
        raise typer.Exit(1)


@app.command()
def ui(
    home: HomeOption = None,
    port: Annotated[Optional[int], _option("Port on loopback [a free one].")] = None,
    search_name: Annotated[Optional[str], _option("Link to this search.", "--search")] = None,
):
    """Start MLflow on loopback for this home folder and print its address; Ctrl-C ends it."""
    from tuner.tracking.ui import serve

    serve(Home(home), port, search_name)


cluster.register(app, search, spec_of)
results.register(app)


def main() -> None:
    """The `tuner` script: every error is one sentence with the right exit code."""
    code = 0
    try:
        code = app(standalone_mode=False) or 0
    except UsageError as error:
        code = _complain(str(error), 2)
    except Failed as error:
        code = _complain(str(error), 1)
    except (typer.Abort, KeyboardInterrupt):
        code = _complain("interrupted", 130)
    except typer.Exit as stop:
        code = stop.exit_code
    except Exception as error:
        code = _failure(error)
    sys.stdout.flush()
    raise SystemExit(code)


def _failure(error: Exception) -> int:
    if hasattr(error, "format_message"):  # typer's own: a wrong flag or type (newer typers carry their own click)
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.format_message())
            return 0
        return _complain(error.format_message(), getattr(error, "exit_code", 2))
    if type(error).__name__ == "Interrupted":
        return 130
    if os.environ.get("TUNER_DEBUG"):
        raise error
    return _complain(f"{type(error).__name__}: {error}", 1)


def _complain(sentence: str, code: int) -> int:
    if "--json" in sys.argv:
        print(json.dumps({"error": sentence}))
    print(f"Error: {sentence}", file=sys.stderr)
    return code
