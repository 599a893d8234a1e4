"""The model card of an exported model, in Markdown; its `load()` snippets are executed by a test."""

from __future__ import annotations

from typing import Any

from tuner.report.format import fraction, value_text
from tuner.spec.objectives import NATURAL


def card_markdown(about: dict[str, Any]) -> str:
    """The card of the model that ``about``, the content of ``model.json``, describes."""
    shape, classes = about["architecture"]["shape"], about["architecture"]["classes"]
    data = about["training"]
    params = ", ".join(f"`{k}` = {value_text(v)}" for k, v in about["params"].items()) or "none"
    size, head = ", ".join(map(str, shape)), f"{about['method']} on {data['dataset']}, imbalance {data['imbalance']}"
    weights = _weights(about)
    return f"""# {head}: trial {about["trial"]} of `{about["search"]}`

An adversarially trained image classifier ({about["architecture"]["model"]}, {len(classes)} classes, images
{"x".join(map(str, shape))}), picked as `{about["pick"]}` from a Pareto front of average against worst-class robust
accuracy.

Method parameters: {params}. Trained for {about["epochs"]} epochs, seed {data["seed"]}, L-inf radius
{data.get("eps", 0):.4g} of a pixel range of 1; weights: {weights}. Everything else is in `model.json`.
Code {about["code"]}, torch {about["torch"]}.

## Accuracy

{_table(about["metrics"])}

In the natural average a class counts by its training images, in the class mean all count alike.
{_selection_note(about["metrics"])}

### Per class

{_per_class(about["metrics"][-1])}

## Use

Images are float32 in [0, 1], `(B, {size})`; normalisation is inside the model; the output is logits
`(B, {len(classes)})`. With torch alone:

```python
import os
from pathlib import Path


def load(folder):
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"  # unpickle tensors only, whatever the file contains
    import torch

    return torch.export.load(Path(folder) / "model.pt2").module()
```

With this project installed, from the safetensors file (a module with `features` and `head`, which can be trained on):

```python
from trainables.saved import load_model as load
```

Classes, in order: {", ".join(f"`{c}`" for c in classes)}.
"""


def _weights(about: dict[str, Any]) -> str:
    averaged = about["weights"] == "average"
    if about.get("epoch") == "best":  # cards of earlier versions do not say
        what = "the average over training up to" if averaged else "those after"
        return f"{what} the best of its epochs on `val` (largest sum of the objectives), not the last"
    return "the average over training" if averaged else "those after the last epoch"


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
            f"| {m['split']} | {m['attack']} | {m['eps']:.4g} | {fraction(m.get(NATURAL))} | {m['robust_acc']:.3f} "
            f"| {worst} | {m['clean_acc']:.3f} |"
        )
    return "\n".join(lines)


def _selection_note(metrics: list[dict]) -> str:
    """Whether the last row of ``metrics`` is an unbiased measurement."""
    if metrics[-1]["split"] == "test":
        alarms = [a for m in metrics for a in m.get("alarms", [])]
        return "The search saw only `val`; `test` was opened only for `tuner verify`." + "".join(
            f" **Alarm: {a}.**" for a in alarms
        )
    return "**Not verified on `test` yet**: the model was selected by these numbers, so they are biased upwards."


def _per_class(m: dict[str, Any]) -> str:
    names = [k.removeprefix("robust_acc/") for k in m if k.startswith("robust_acc/")]
    lines = [f"Split {m['split']}, attack {m['attack']}.", "", "| class | robust | 95 % | clean |", "|---|---|---|---|"]
    for n in names:
        ci = m.get("ci_per_class", {}).get(n)
        interval = f"{ci[0]:.3f} .. {ci[1]:.3f}" if ci else "-"
        lines.append(f"| {n} | {m[f'robust_acc/{n}']:.3f} | {interval} | {m[f'clean_acc/{n}']:.3f} |")
    return "\n".join(lines)
