"""NePS's PriMO behind a pipe, for the arm `primo` of `benchmarks.live`: run by a Python that has NePS, not by ours.

    uv venv neps-venv && uv pip install --python neps-venv/bin/python neural-pipeline-search
    NEPS_PYTHON=neps-venv/bin/python python -m benchmarks.live --arms primo ...

One JSON object a line. First comes the problem: ``space`` (name -> ``low``, ``high``, ``log``, ``whole``, or the number
of ``choices``; each with its ``prior``), ``epochs``, ``seed``. Then ``{"ask": true}`` is answered with ``{"id", "of",
"config", "epochs"}``, where ``of`` is the trial that goes on, and ``{"tell": id, "values": [..] or null}`` with ``{}``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import sys

CONFIDENCE = 0.75  # in the prior, of every parameter: the paper's setting, for both objectives


def main() -> None:
    answers = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):  # whatever the library prints
        problem = json.loads(sys.stdin.readline())
        asked = open_primo(problem)
        for line in sys.stdin:
            said = json.loads(line)
            answer = ask(asked) if "ask" in said else tell(asked, said["tell"], said["values"])
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


def open_primo(problem: dict):
    import neps
    import numpy as np
    import torch
    from neps.optimizers.algorithms import primo
    from neps.optimizers.utils.brackets import Rung
    from neps.space import HPOCategorical, HPOFloat, HPOInteger, SearchSpace

    random.seed(problem["seed"])
    np.random.seed(problem["seed"])
    torch.manual_seed(problem["seed"])

    def parameter(about: dict):
        if "choices" in about:
            return HPOCategorical(choices=[str(i) for i in range(about["choices"])], prior=str(about["prior"]))
        kind = HPOInteger if about["whole"] else HPOFloat
        return kind(lower=about["low"], upper=about["high"], log=about["log"], prior=about["prior"])

    params = {name: parameter(about) for name, about in problem["space"].items()}
    space = SearchSpace({**params, "epochs": HPOInteger(lower=1, upper=problem["epochs"], is_fidelity=True)})
    centres = {name: param.prior for name, param in params.items()}
    sure = dict.fromkeys(params, CONFIDENCE)
    optimizer = primo(
        space, prior_centers={"natural": centres, "worst": centres}, prior_confidences={"natural": sure, "worst": sure}
    )

    select = Rung.epsnet_selector

    def select_of_known(rung, *, k, contenders):
        """It breaks off where all trials of a rung are pending: then none is promoted."""
        known = contenders.dropna(subset=["perf"])
        return select(rung, k=k, contenders=contenders) if len(known) else known

    Rung.epsnet_selector = select_of_known

    def unique(trials, budget_info=None, n=None):
        """PriMO's model does not see trials that are pending, and gives the next one their number."""
        sampled = optimizer(trials, budget_info, n)
        if sampled.id not in trials:
            return sampled
        taken = max(int(name.partition("_")[0]) for name in trials)
        return dataclasses.replace(sampled, id=str(taken + 1))

    return neps.AskAndTell(unique)


def ask(asked) -> dict:
    trial = asked.ask()
    config = {name: value for name, value in trial.config.items() if name != "epochs"}
    of = trial.metadata.previous_trial_id
    return {"id": trial.metadata.id, "of": of, "config": config, "epochs": int(trial.config["epochs"])}


def tell(asked, number: str, values: list[float] | None) -> dict:
    """What is minimised is what is lost of 1; a trial that failed has lost all."""
    lost = [1.0 - v for v in values] if values else [1.0, 1.0]
    asked.tell(number, {"objective_to_minimize": lost})
    return {}


if __name__ == "__main__":
    main()
