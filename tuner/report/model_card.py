"""The model card of an exported model, in Markdown; its `load()` snippets are executed by a test."""

from __future__ import annotations

from typing import Any

from search_spaces.provenance import paper_label
from trainables.threats import LINF, THREATS
from tuner.escape import code, markdown
from tuner.report.format import LABELS, fraction, tracks_note, value_text
from tuner.spec.objectives import NATURAL, WORST


def card_markdown(about: dict[str, Any]) -> str:
    """The card of the model that ``about``, the content of ``model.json``, describes."""
    shape, classes = about["architecture"]["shape"], about["architecture"]["classes"]
    data = about["training"]
    params = ", ".join(f"{code(k)} = {markdown(value_text(v))}" for k, v in about["params"].items()) or "none"
    head = markdown(f"{about['method']} on {data['dataset']}, imbalance {data['imbalance']}")
    size = ", ".join(map(str, shape))
    weights = _weights(about)
    norm = THREATS[data.get("threat", LINF)].shown
    role = about.get("role", "front")
    name = "plain AT" if role == "no_search" else f"trial {about['trial']}"
    return f"""# {head}: {name} of {code(about["search"])}

An adversarially trained image classifier ({markdown(about["architecture"]["model"])}, {len(classes)} classes, images
{"x".join(map(str, shape))}), {_origin(about)}.
{_offsets(about)}
Method parameters: {params}. Trained for {about["epochs"]} epochs{_given(about)}, seed {data["seed"]}, {norm} radius
{data.get("eps", 0):.4g} of a pixel range of 1; weights: {weights}{_repair(about)}. Everything else is in `model.json`.
Code {about["code"]}, torch {about["torch"]}.

## Accuracy

{_table(about["metrics"])}

In the natural average a class counts by its training images, in the class mean all count alike.
{_selection_note(about)}{_seed_note(about)}

### Per class

{_per_class(about["metrics"][-1])}

## Use

Images are float32 in [0, 1], `(B, {size})`; normalisation is inside the model; the output is logits
`(B, {len(classes)})`. With this project installed, from `model.safetensors`, which holds numbers alone and runs no
code, whoever made it (a module with `features` and `head`, which can be trained on):

```python
from trainables.saved import load_model as load
```

With torch alone, from `model.pt2`. Such a file can run code of whoever made it, as `torch.export.load` itself warns:
take this way only if you trust the sender as you would trust a program of theirs.

```python
from pathlib import Path

import torch


def load(folder):
    return torch.export.load(Path(folder) / "model.pt2").module()
```

Classes, in order: {", ".join(map(code, classes))}.
"""


def _weights(about: dict[str, Any]) -> str:
    averaged = about["weights"] == "average"
    if about.get("epoch") == "best":  # cards of earlier versions do not say
        what = "the average over training up to" if averaged else "those after"
        is_last = about["epochs"] == about["spec"]["max_epochs"]
        which = "which is the last" if is_last else "not the last"
        return f"{what} the best of its epochs on `val` (largest sum of the objectives), {which}"
    return "the average over training" if averaged else "those after the last epoch"


def _given(about: dict[str, Any]) -> str:
    """What it was trained from and on beside random weights and the data set's images."""
    spec = about.get("spec", {})
    init, extra = (spec.get(name, "none") for name in ("init", "extra_data"))
    begun = "" if init == "none" else f", begun with the weights of {code(init)}"
    more = "" if extra == "none" else f", with images of {code(extra)} as {100 * spec['extra_ratio']:g} % of each batch"
    return begun + more


def _repair(about: dict[str, Any]) -> str:
    """What was done to the head, after the weights; of epochs before the last, none is repaired."""
    kind = about["training"].get("head_repair", "none")
    if kind == "none" or about["epochs"] < about["spec"]["max_epochs"]:
        return ""
    return f", their head repaired (`head_repair={kind}`)"


def _origin(about: dict[str, Any]) -> str:
    """Where the model comes from, after a comma."""
    role = about.get("role", "front")
    if role == "paper":
        return f"trained with {paper_label(about['method'], about['params'])}"
    if role == "no_search":
        return "plain adversarial training, with which the search is compared"
    names = about.get("spec", {}).get("objectives", (NATURAL, WORST))  # cards of earlier versions do not say
    return f"picked as `{about['pick']}` from a Pareto front of {' and '.join(LABELS.get(n, n) for n in names)}"


def _offsets(about: dict[str, Any]) -> str:
    """A paragraph on post-hoc offsets; empty where the model is as it was trained."""
    found = about.get("offsets") or {}
    if not found.get("tau"):
        return ""
    how = (
        f"minus {found['tau']:g} times the logarithm of its training images over those of the largest class (logit "
        "adjustment)"
        if found["kind"] == "prior"
        else f"fitted to validation images, at {found['tau']:g} of their full size"
    )
    each = ", ".join(f"{code(c)} {v + 0.0:+.3f}" for c, v in zip(about["architecture"]["classes"], found["values"]))
    note = f" The method {about['prior_in_loss'].partition(' ')[2]}." if about.get("prior_in_loss") else ""
    return f"""
Post-hoc class offsets are part of the model: they are added to the logits, in the head's bias. For each class the
offset is {how}: {each}.{note}
All numbers below are of the model with its offsets, and the attacks saw its logits with them.
"""


def _table(metrics: list[dict]) -> str:
    lines = [
        "| split | attack | eps | natural average robust | class-mean robust | worst-class robust | clean |",
        "|---|---|---|---|---|---|---|",
    ]
    for m in metrics:
        worst = f"{m['worst_class_robust_acc']:.3f}"
        if "ci" in m:
            low, high = m["ci"]["worst_class_robust_acc"]
            worst += f" (corrected {m['worst_class_robust_acc_corrected']:.3f}, 95 % {low:.3f} .. {high:.3f})"
        lines.append(
            f"| {m['split']} | {markdown(m['attack'])} | {m['eps']:.4g} | {fraction(m.get(NATURAL))} "
            f"| {m['robust_acc']:.3f} | {worst} | {m['clean_acc']:.3f} |"
        )
    return "\n".join(lines)


def _selection_note(about: dict[str, Any]) -> str:
    """Whether the last row of the metrics is an unbiased measurement."""
    metrics = about["metrics"]
    if metrics[-1]["split"] == "test":
        alarms = [a for m in metrics for a in m.get("alarms", [])]
        said = ["The search saw only `val`; `test` was opened only for `tuner verify`.", *tracks_note(metrics[-1])]
        return " ".join([*said, *(f"**Alarm: {markdown(a)}.**" for a in alarms)])
    if about.get("epoch") == "best":
        return (
            "**Not verified on `test` yet**: the epoch was selected by these numbers, which are of the images of `val` "
            "that judge every epoch, so they are biased upwards."
        )
    if about.get("role", "front") == "front":
        return "**Not verified on `test` yet**: the model was selected by these numbers, so they are biased upwards."
    return "**Not verified on `test` yet**: these numbers are of `val`."


def _seed_note(about: dict[str, Any]) -> str:
    """Why the figures on `val` are not those of the search's front, where that shows means."""
    seeds = about.get("mean_of", [])  # model.json of earlier versions does not say
    if len(seeds) < 2 or about.get("epoch") == "best":
        return ""
    return (
        f" The search shows means over seeds {', '.join(map(str, seeds))}; here the row of `val` is of seed "
        f"{about['training']['seed']} alone."
    )


def _per_class(m: dict[str, Any]) -> str:
    names = [k.removeprefix("robust_acc/") for k in m if k.startswith("robust_acc/")]
    lines = [
        f"Split {m['split']}, attack {markdown(m['attack'])}.",
        "",
        "| class | robust | 95 % | clean |",
        "|---|---|---|---|",
    ]
    for n in names:
        ci = m.get("ci_per_class", {}).get(n)
        interval = f"{ci[0]:.3f} .. {ci[1]:.3f}" if ci else "-"
        lines.append(f"| {markdown(n)} | {m[f'robust_acc/{n}']:.3f} | {interval} | {m[f'clean_acc/{n}']:.3f} |")
    return "\n".join(lines)
