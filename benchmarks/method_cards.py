"""docs/methods/: one card a method from its code and our own stored runs, and the table of all of them."""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from benchmarks.methods_report import ALL, CLAIMS, KIND, average, by_kind, cell, clean, collapsed, judged, tail, worst
from search_spaces import METHODS, epochs_of, recipe_of
from search_spaces.param import PUBLISHED, Param, describe, params_of
from search_spaces.provenance import paper_label
from search_spaces.training import Training
from trainables.datasets import BUILT_IN
from trainables.method import Attack, Method, Task
from trainables.methods import build_method
from tuner.results.references import PLAIN
from tuner.spec.space import build_space

NOTICE = "<!-- Written by `make docs` from the code and the stored runs; do not edit. -->"
TASK = Task(class_counts=torch.tensor([40, 20, 10]), max_epochs=10, eps=8 / 255)  # any task would do
SYMBOLS = (
    "x an image, x' its adversarial image, y its class, z logits, p softmax; B images of a batch,\n"
    "K (or C) classes, D features"
)
FIGURES = {"average": average, "worst class": worst, "worst 30 %": tail, "clean": clean}
INTRO = """At its default setting, on the test split of CIFAR-10, percent, mean +- standard deviation over the seeds; in
brackets plain AT in the same kind of run. These runs are short and have few images: they say little about long ones.
All figures: [evidence](evidence.md)."""

SOURCES = """The source of a default is the `paper`, the authors' `code`, `second-hand` (recalled, or what others say)
or `ours`: see [the guide](../guide.md#where-a-default-comes-from)."""

INDEX = f"""# Methods

{NOTICE}

{{count}} methods stand behind one interface. Each card has the equation, the parameters with default, its source
and range, cautions, and what our own runs show. "Searched" is what `tuner search` varies unless `--fix` or `--space`
say otherwise; `tuner space METHOD` prints the same in a terminal. "Acts as" is the coordinate that a parameter shares
with other methods' (`--warm-start`): [what each means](../../search_spaces/coordinates.py).

- What our runs say of the papers' claims: [evidence](evidence.md)
- What SRAT, DONE and DAFA add over one plain training: [no search](no-search.md)
- What each method's default setting adds to plain AT's curve, on digits: [measured](../experiments/what-adds.md)
- What every method shares, the keys of `--set`: [common training settings](training.md)
- How to add a method: [extending](../extending.md)

Left out, because no code was found and their equations could not be read: TRIX (Medi et al. 2025, arXiv:2507.07768:
targeted attacks on strong classes, untargeted ones on weak classes) and TDLF (adversarial supervised contrastive
learning, then a balanced head).

| method | what it does | searched | paper |
|---|---|---|---|
"""


TRAINING = f"""# Common training settings

{NOTICE}

`--set KEY=VALUE` changes one for a search, `--recipe paper` several of them to those of a method's authors, and a space
file (`--space`) may put one into the search. Pixels are in [0, 1]; `eps` is in that unit, also written `8/255`.
`code` as a source says that the code of most methods' authors has the value.

| key | default | source | range | meaning |
|---|---|---|---|---|
"""


def built_in_methods() -> dict[str, Any]:
    """This project's methods by name; those that other installed packages add have no card here."""
    ours = Path(__file__).parent.parent / "search_spaces"
    return {name: METHODS[name] for name in sorted(METHODS) if (ours / f"{name}.py").exists()}


def index() -> str:
    rows = []
    for name, space in built_in_methods().items():
        searched = ", ".join(f"`{n}`" for n in build_space(name, fix={}, space={}).searched)
        rows.append(f"| [`{name}`]({name}.md) | {space.SUMMARY} | {searched} | {space.PAPER} |")
    return INDEX.format(count=len(rows)) + "\n".join(rows) + "\n"


def training() -> str:
    """The page of what every method shares: the keys of ``--set``."""
    shared = params_of(Training).items()
    rows = [_line(f"`{name}`", _shown(p.default), p.source, describe(p.range), p.doc) for name, p in shared]
    sets = (
        f"| {name} | {', '.join(f'`{k}={_shown(v)}`' for k, v in row.training.items()) or 'as above'} |"
        for name, row in BUILT_IN.items()
    )
    text = TRAINING + "\n".join(rows)
    return f"{text}\n\n## Where a data set has another default\n\n| data set | |\n|---|---|\n" + "\n".join(sets) + "\n"


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def card(name: str, runs: list[dict]) -> str:
    """One page. ``runs``: all stored runs of `benchmarks.methods_table`, of every method."""
    space, method = METHODS[name], build_method(name, {}, TASK)
    parts = [
        f"# `{name}`",
        NOTICE,
        f"{space.SUMMARY[0].upper()}{space.SUMMARY[1:]}.",
        f"Source: {space.PAPER}.",
        "## Equation",
        f"Symbols: {SYMBOLS}. Files: [the equation](../../trainables/methods/{name}.py),\n"
        f"[what may vary](../../search_spaces/{name}.py).",
        _equations(method),
        "The training loss as it is computed:",
        f"```text\n{textwrap.dedent(inspect.getsource(type(method).forward)).rstrip()}\n```",
        "## Parameters",
        *_parameters(name),
        "## Recipe",
        _recipe(name),
        "## Cautions",
        "\n".join(_cautions(name, method, runs)),
        "## What our runs show",
        *_evidence(name, runs),
    ]
    return "\n\n".join(parts) + "\n"


def _equations(method: Method) -> str:
    """The docstrings of the method's file, its class and its public functions, as they are written there."""
    module = sys.modules[type(method).__module__]
    texts = [
        inspect.getdoc(module),
        type(method).__doc__ and f"{type(method).__name__}: {inspect.getdoc(type(method))}",
    ]
    texts += [f"{label}\n{_indented(doc)}" for label, doc in _functions(module)]
    return "```text\n" + "\n\n".join(t for t in texts if t) + "\n```"


def _functions(module: ModuleType) -> list[tuple[str, str]]:
    """(call, docstring) of the public functions that a module defines, in the order of its lines."""
    own = [f for f in vars(module).values() if inspect.isfunction(f) and f.__module__ == module.__name__]
    shown = [f for f in own if not f.__name__.startswith("_") and f.__doc__]
    return [(f"{f.__name__}({', '.join(inspect.signature(f).parameters)})", inspect.getdoc(f)) for f in shown]


def _indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.splitlines())


def _parameters(name: str) -> list[str]:
    params = params_of(METHODS[name].Params)
    if not params:
        return ["None."]
    note = inspect.getdoc(METHODS[name])
    rows = [
        "| name | default | source | range | searched | exists with | acts as | meaning |",
        "|---|---|---|---|---|---|---|---|",
        *(_row(param) for param in params.values()),
    ]
    return [*([f"```text\n{note}\n```"] if note else []), SOURCES, "\n".join(rows)]


def _recipe(name: str) -> str:
    """The training settings of `--recipe paper`, with the comment that gives their source."""
    if not (recipe := recipe_of(name)):
        return "None: `--recipe paper` is refused."
    lines = inspect.getsource(METHODS[name]).splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith(("EPOCHS", "RECIPE")))
    comment = []
    while lines[first - 1].startswith("# "):
        first -= 1
        comment.insert(0, lines[first].removeprefix("# "))
    rows = [f"| `{key}` | {value} |" for key, value in recipe.items()]
    for form, own in getattr(METHODS[name], "RECIPE_OF_FORM", {}).items():
        rows += [f"| `{key}`, with `--fix form={form}` | {value} |" for key, value in own.items()]
    rows += [
        f"| `{key}`, of the method | {value} |" for key, value in getattr(METHODS[name], "FINE_TUNING", {}).items()
    ]
    settings = "\n".join(rows)
    return (
        f"What `--recipe paper` sets; the authors train {epochs_of(name)} epochs (`--max-epochs`).\n\n"
        + "\n".join(comment)
        + f"\n\n| setting | value |\n|---|---|\n{settings}"
    )


def _row(param: Param) -> str:
    by = [
        f"{value} with {other} = {choice}" for other, defaults in param.by.items() for choice, value in defaults.items()
    ]
    default = "; ".join([str(param.default), *by])
    when = ", ".join(f"{other} = {' or '.join(map(str, allowed))}" for other, allowed in param.when.items())
    searched = "yes" if param.searched else "no"
    acts = param.acts_as.name if param.acts_as else ""
    return _line(f"`{param.name}`", default, param.source, describe(param.range), searched, when, acts, param.doc)


def _line(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _cautions(name: str, method: Method, runs: list[dict]) -> list[str]:
    """What to know before choosing a method, as far as it follows from the code and the stored runs."""
    params = params_of(METHODS[name].Params)
    lines = []
    if unknown := [f"`{p.name}`" for p in params.values() if p.source not in PUBLISHED]:
        lines.append(f"Trial 0 has {paper_label(name)}. Defaults that are not published: {', '.join(unknown)}.")
    if method.needs_every_class:
        lines.append("Needs at least one training image of every class.")
    lines += _reads_val(method)
    if method.head != "linear":
        lines.append(f"Has a {method.head} classifier: its checkpoints are not those of the plain head.")
    lines += _stem(name, method) + _costs(method)
    mine = [row for row in runs if row["method"] == name and "failed" not in row]
    for row in filter(collapsed, mine):
        lines.append(f"Collapsed to one class in our run on {row['setting']}, {row['model']}, seed {row['seed']}.")
    return [f"- {line}" for line in lines or ["None known."]]


def _stem(name: str, method: Method) -> list[str]:
    """What of a search's trials is plain AT's, and whether other methods share that."""
    if name == PLAIN:
        return []
    if "start" in params_of(METHODS[name].Params):
        lines = [
            "In a search all of it acts from `start` on: the epochs before are its plain base's (those of the default "
            "setting, and with `--burn-in own` of all trials, are its own)."
        ]
    else:
        lines = ["Has no `start`: what trains in full trains alone; previews fork from its plain base all the same."]
    if method.head != "linear" or method.needs_val_losses:
        what = f"with a {method.head} classifier" if method.head != "linear" else "whose losses on `val` are kept"
        lines.append(f"Its stem is not that of most methods: its plain base {what}.")
    return lines


def _costs(method: Method) -> list[str]:
    """What makes an epoch cost more than plain AT's."""
    plain = Attack(steps=10, step=0.25)
    attacks = method.attacks(plain, 0)
    if len(attacks) == 1:
        return []
    steps = sum(attack.steps * (attack.targets if attack.loss == "dlr-targeted" else 1) for attack in attacks)
    return [
        f"Makes {len(attacks)} attacks a training step, of {steps} steps in all to plain AT's {plain.steps}: an epoch "
        f"costs up to about {steps / plain.steps:.2g} times that of plain AT, less where images are small."
    ]


def _reads_val(method: Method) -> list[str]:
    """Whether the equation looks at figures of `val`: always, or only with some settings."""
    source = inspect.getsource(sys.modules[type(method).__module__])
    if "val_" not in source:
        return []
    always = method.needs_val_losses or "stats.val_" in source
    reads = "Reads" if always else "With some settings reads"
    return [f"{reads} figures of `val` while it trains: to it `val` is not unseen; `tuner verify` judges on `test`."]


def _evidence(name: str, runs: list[dict]) -> list[str]:
    """The method beside plain AT, per kind of run and imbalance, and the claims that were judged on it."""
    rows, claims = [], []
    for about, setting, group in _comparable(runs):
        mine, plain = ([r for r in group if r["method"] == m] for m in (name, "at"))
        if mine:
            rows.append(f"| {about} | {setting} | {len(mine)} | {_beside(mine, [] if name == 'at' else plain)} |")
            said = [c for c in CLAIMS if name in (c.method, c.control.partition("+")[0]) and setting in c.settings]
            claims += [f"| {about} {line}" for line in (judged(c, setting, group) for c in said) if line]
    if not rows:
        return ["No runs of ours are stored."]
    parts = [
        INTRO,
        "\n".join([f"| run | imbalance | seeds | {' | '.join(FIGURES)} |", "|---" * (3 + len(FIGURES)) + "|", *rows]),
    ]
    if claims:
        header = ["| run | claim | imbalance | difference | per seed | verdict |", "|---|---|---|---|---|---|"]
        parts += ["Claims of papers on which these runs bear:", "\n".join([*header, *claims])]
    return parts


def _beside(mine: list[dict], plain: list[dict]) -> str:
    """Cells of ``FIGURES``: the method's, and plain AT's in brackets where it ran too."""
    cells = [[cell([figure(r) for r in rows]) for rows in (mine, plain) if rows] for figure in FIGURES.values()]
    return " | ".join(own + "".join(f" ({other})" for other in rest) for own, *rest in cells)


def _comparable(runs: list[dict]) -> Iterator[tuple[str, str, list[dict]]]:
    """(kind of run in words, imbalance, runs) for runs that may stand in one table."""
    for kind, rows in by_kind([r for r in runs if "failed" not in r]).items():
        about = dict(zip(KIND, kind))
        device = "CPU" if about["device"] == "cpu" else about["device"].removeprefix("NVIDIA ").partition(" ")[0]
        words = f"{about['model']}, {about['epochs']} epochs, {about['images'] or 'all'} images, {device}"
        for setting in ALL:
            if group := [r for r in rows if r["setting"] == setting]:
                yield words, setting, group
