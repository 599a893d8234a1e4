"""Oracle files of losses, instance weights, attack, data and front: (inputs, params) -> outputs.

Everything is derived from the case; the functions under test are those that training calls.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tests.oracle_tools import (
    Network,
    batch,
    build,
    gradients,
    known,
    labels,
    loss_and_gradients,
    numbers,
    oracle,
    tensor,
    width,
)
from trainables import losses
from trainables.attack import pgd
from trainables.data import class_counts
from trainables.data.split import thin
from trainables.methods import done, gairat, mail, srat
from tuner.results.pareto import hypervolume, nondominated


@oracle("attack")
def run_attack(inputs, params):
    x, y = tensor(inputs["x"]), labels(inputs["y"])
    kind, begin = params["loss"], None
    network = Network(inputs["model"], scale=1 / len(y) if kind == "ce" else 1.0)
    if kind == "kl":
        clean, begin = network(x), x + 0.001 * tensor(inputs["noise"])
        objective = lambda z, t: losses.kl(clean, z)  # noqa: E731
    else:
        objective = known(kind, "attack loss", {"ce": losses.cross_entropy, "cw": losses.logit_margin, "kl": None})
        begin = x.clamp(0, 1)
    found, survived = pgd(
        network,
        x,
        y,
        objective,
        eps=tensor(params["eps"]),
        step=tensor(params["step"]),
        steps=params["steps"],
        x_start=begin,
    )
    logits = network(found)
    return {
        "x_adv": found,
        "logits_adv": logits,
        "ce_adv": F.cross_entropy(logits, y, reduction="none"),
        "kappa": survived,
        "min_abs_grad": network.min_abs_grad,
    }


@oracle("gairat", "weights_loss")
def run_gairat(inputs, params):
    method = build(
        "gairat",
        width(inputs),
        steps=params["num_steps"],
        lam=numbers(params["Lambda"]),
        func=known(params["func"], "func", ("Tanh", "Sigmoid", "Discrete")).lower(),
    )
    here = batch(inputs["y"], [tensor(inputs["logits_adv"])], survived=inputs["kappa"])
    return {
        "weights": method.weights(here),
        "ce": here.cross_entropy(here.logits_adv),
        **loss_and_gradients(method, inputs),
    }


@oracle("gairat", "lambda_schedule")
def run_gairat_schedule(inputs, params):
    switch = 60 if params["epochs"] >= 110 else 30  # the authors' fixed switch points
    schedule = known(params["schedule"], "schedule", ("fixed", "linear", "piecewise"))
    last, first = numbers(params["Lambda"]), numbers(params["Lambda_max"])

    def after(epoch):
        return gairat.lambda_at(epoch, params["epochs"], last, first) if schedule == "linear" else last

    # the later branches of their "piecewise" are unreachable; before the switch weights are even: our `start`
    return {"Lambda": [first if epoch < switch else after(epoch) for epoch in inputs["epoch_1based"]]}


@oracle("imbalance")
def run_imbalance(inputs, params):
    k = params["num_classes"]
    kind = known(params["type"], "type", ("exp", "step", "none"))
    counts = class_counts(params["total_samples"] / k, k, kind, params["factor"])
    if "targets" not in inputs:
        return {"class_counts": counts}
    targets = labels(inputs["targets"]).numpy()
    chosen = thin(targets, counts, params["seed"])
    return {"class_counts": counts, "selected_indices": chosen.tolist(), "selected_targets": targets[chosen].tolist()}


@oracle("kl_dro")
def run_kl_dro(inputs, params):
    if "logits" in inputs:
        logits, y = tensor(inputs["logits"], grad=True), inputs["y"]
        values = F.cross_entropy(logits, labels(y), reduction="none")
    else:
        values = tensor(inputs["losses"], grad=True)
        logits, y = values[:, None].expand(-1, 2), [0] * len(values)
    method, here = build("done", logits.shape[1], r=params["r"]), batch(y, [logits])
    here.cross_entropy = lambda _: values  # the file gives losses, not always logits
    loss = method(here)
    weights = here.weights / len(y)
    objective = done.soft_maximum(values, params["r"])
    out = {
        "losses": values,
        "weights": weights,
        "objective": objective,
        "weighted_loss": loss,
        "grad_losses": torch.autograd.grad(objective, values, retain_graph=True)[0],
        "kl_to_uniform": (loss - objective) / params["r"],
        "ess": 1 / weights.square().sum(),
    }
    return out | ({"grad_logits": gradients(loss, logits)[0]} if "logits" in inputs else {})


@oracle("lrat")
def run_lrat(inputs, params):
    adv = [tensor(z, grad=True) for z in inputs["logits_adv"]]
    res = tensor(inputs["logits_res"], grad=True)
    here = batch(inputs["y"], adv, res)
    k, raw = res.shape[1], dict(residual="b", alpha=params["alpha"], power=params["beta"], minimum=params["C"])
    method = build("lrat", k, normalise=params["normalise"], **raw)
    loss = method(here)
    grads = gradients(loss, *adv, res)
    weights, residual = method.weights(here)
    weights_raw, residual_raw = build("lrat", k, normalise=False, **raw).weights(here)
    return {
        "t": torch.stack([-losses.prob_margin(z, here.y) for z in adv], 1),
        "weights_raw": weights_raw.T,
        "residual_raw": residual_raw,
        "weights": weights.T,
        "residual": residual,
        "loss": loss,
        "grad_logits_adv": torch.stack(grads[:-1]),
        "grad_logits_res": grads[-1],
    }


@oracle("mail")
def run_mail(inputs, params):
    adv, y = tensor(inputs["logits_adv"]), labels(inputs["y"])
    out = {
        "margin": losses.prob_margin(adv, y),
        "weights": mail.margin_weights(adv, y, params["slope"], params["bias"]),
    }
    for form in ("at", "trades", "mart"):
        method = build(
            "mail", width(inputs), form=form, slope=params["slope"], bias=params["bias"], beta=params["beta"]
        )
        out |= loss_and_gradients(method, inputs, suffix=f"_{form}")
    return out


@oracle("mart")
def run_mart(inputs, params):
    method = build("mart", width(inputs), beta=params["beta"])
    here = batch(inputs["y"], [tensor(inputs["logits_adv"])], tensor(inputs["logits_nat"]))
    boosted, robust = method.terms(here)
    return loss_and_gradients(method, inputs) | {
        "loss_bce": boosted.mean(),
        "loss_robust": robust.mean(),
        "new_y": losses.wrong_class(here.logits_adv, here.y),
    }


@oracle("pareto")
def run_pareto(inputs, params):
    maximise = [known(d, "direction", {"max": True, "min": False}) for d in params["directions"]]
    points = [numbers(row) for row in inputs["points"]]
    front = nondominated(points, maximise)
    return {
        "valid_indices": [i for i, p in enumerate(points) if nondominated([p], maximise)],
        "nondominated_indices": front,
        "nondominated_first_indices": [i for i in front if points.index(points[i]) == i],
        "hypervolume": hypervolume(points, params["reference"], maximise),
    }


@oracle("supcon")
def run_supcon(inputs, params):
    raw, y = tensor(inputs["raw"], grad=True), labels(inputs["y"])
    one = known(params["contrast_mode"], "contrast_mode", {"all": False, "one": True})
    features = F.normalize(raw, dim=2)
    views = raw.shape[1]
    loss = srat.supcon(
        features.transpose(0, 1).flatten(0, 1),
        y.repeat(views),
        params["temperature"],
        base_temperature=params["base_temperature"],
        anchors=len(y) if one else None,
    )
    g_features, g_raw = torch.autograd.grad(loss, [features, raw])
    if views == 1 and params["temperature"] == params["base_temperature"]:  # SRAT's own term
        method = build("srat", int(y.max()) + 1, temperature=params["temperature"], sep_weight=1.0)
        flat = raw.squeeze(1)
        logits = torch.zeros(len(y), int(y.max()) + 1, dtype=torch.float64)
        here = batch(inputs["y"], [logits], features=flat)
        loss = method(here) - method.sample_loss(here).mean()
        g_raw = gradients(loss, raw)[0]
    return {"features": features, "loss": loss, "grad_features": g_features, "grad_raw": g_raw}


@oracle("trades")
def run_trades(inputs, params):
    method = build("trades", width(inputs), beta=params["beta"])
    here = batch(inputs["y"], [tensor(inputs["logits_adv"])], tensor(inputs["logits_nat"]))
    natural, robust = method.terms(here)
    return loss_and_gradients(method, inputs) | {"loss_natural": natural.mean(), "loss_robust": robust.mean()}
