"""`tuner search` and `tuner submit` have an option for each field of a search, made from the fields themselves."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Optional

from tuner.cli.options import option, option_of
from tuner.errors import UsageError
from tuner.escape import print_json, to_stderr, to_stdout
from tuner.spec.fields import PANELS, SearchFields
from tuner.spec.option import Option, options_of
from tuner.spec.validation import Pairs

SpecFile = Annotated[
    Optional[Path],
    option("--spec", "FILE", "YAML file with any of these fields, which options on the command line override."),
]
DryRun = Annotated[
    bool,
    option(
        "--dry-run",
        "",
        "Print the spec that file and options make together, what trains in full and what it would cost, and stop.",
    ),
]


def takes_spec(command: Callable[..., None]) -> Callable[..., None]:
    """A command with an option for each field of a search, with ``--spec``, ``--dry-run`` and its own options.

    ``command(spec, ...)`` is called with the ``SearchSpec`` that they make, and its own options by name; after
    ``--dry-run`` it is not called. It must have ``as_json``.
    """
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    ours = [("spec", SpecFile, None), ("dry_run", DryRun, False)]
    kinds = [*field_parameters(), *ours, *((p.name, p.annotation, p.default) for p in own)]

    @wraps(command)
    def with_options(**given: Any) -> None:
        spec = spec_of(given)
        if given["dry_run"]:
            _show(spec, given["as_json"])
        else:
            command(spec, **{parameter.name: given[parameter.name] for parameter in own})

    # typer reads the signature, and the annotations besides.
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter(name, keyword, annotation=kind, default=default) for name, kind, default in kinds]
    with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {name: kind for name, kind, _ in kinds}
    return with_options


def field_parameters() -> list[tuple[str, Any, Any]]:
    """Name, annotation and default of a parameter for each field of a search, panel by panel."""
    found: list[tuple[str, Any, Any]] = []
    for asked in sorted(options_of(SearchFields).values(), key=lambda asked: PANELS.index(asked.panel)):
        found.append((asked.name, Annotated[Optional[asked.kind.argument], option_of(asked, asked.panel)], None))
    return found


def spec_of(given: dict[str, Any]):
    """The ``SearchSpec`` that the options mean: the spec file's fields with the options' values over them."""
    from tuner.spec.search_spec import SearchSpec

    values = read_mapping(given["spec"], "--spec") if given["spec"] else {}
    for asked in options_of(SearchFields).values():
        said = _said(asked, given)
        if said is not None:
            values[asked.name] = _over(asked, values.get(asked.name), said)
    spec = SearchSpec.from_dict(values)
    if given["dry_run"]:  # else the driver checks it, with the data
        _check_without_data(spec)
    return spec


def _said(asked: Option, given: dict[str, Any]) -> Any:
    """What the command line says of a field; None: nothing."""
    said = given[asked.name]
    return said or None if isinstance(said, list) else said


def _over(asked: Option, base: Any, said: Any) -> Any:
    """``said`` over what the spec file says of the field: in its place, but name by name for ``KEY=VALUE``."""
    if not isinstance(asked.kind, Pairs):
        return said
    if asked.kind.from_file:
        return read_mapping(said, f"--{asked.flag}")
    return {**asked.kind.check(asked, base or {}), **key_values(said, f"--{asked.flag}")}


def key_values(items: list[str], flag: str) -> dict[str, Any]:
    """``KEY=VALUE`` items as a mapping, where a value is read as YAML."""
    from tuner.spec.yaml_text import read_yaml

    values: dict[str, Any] = {}
    for item in items:
        key, equals, text = item.partition("=")
        if not equals or not key:
            raise UsageError(f"{flag} {item!r} is not allowed; write {flag} KEY=VALUE")
        if key in values:
            raise UsageError(f"{flag} gives {key} twice; give it once")
        try:
            values[key] = read_yaml(text)
        except ValueError:
            raise UsageError(
                f"{flag} {item!r} is not allowed; write {flag} KEY=VALUE with a VALUE that is valid YAML"
            ) from None
    return values


def read_mapping(path: Path, what: str) -> dict[str, Any]:
    """The YAML file of an option; ``UsageError`` where there is none."""
    from trainables.reading import Damaged, read_text
    from tuner.spec.search_spec import load_mapping

    try:
        return load_mapping(read_text(path), what)
    except (OSError, Damaged) as error:
        raise UsageError(f"the {what} file {str(path)!r} cannot be read: {error}") from None


def _check_without_data(spec) -> None:
    """What shows without data to be wrong with dataset, imbalance and model, in the driver's words."""
    from trainables.data import absolute
    from trainables.data.spec import validate_spec
    from trainables.models.check import check_model
    from trainables.models.names import find_model, parse_model
    from tuner.sync.shared_dataset import data_spec

    try:
        validate_spec(data_spec(spec, absolute(spec.dataset), Path()))
        if find_model(parse_model(spec.model)[0]) is None:
            check_model(spec.model, (3, 224, 224))  # the size that torchvision's are made for
    except ValueError as error:
        raise UsageError(str(error)) from None


def _show(spec, as_json: bool) -> None:
    from tuner.results.bill import cost_words
    from tuner.results.forecast import forecast

    for note in spec.notes:
        to_stderr(note)
    to_stderr(spec.scheduling.describe())
    to_stderr(f"cost: {cost_words(spec)}")
    if found := forecast(spec):
        to_stderr(f"forecast: {found.words}")
    print_json(spec.to_dict()) if as_json else to_stdout(spec.to_yaml(), end="")
