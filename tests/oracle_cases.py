"""How each oracle file's cases run through our code: one function per method and kind, (inputs, params) -> outputs.

Everything is derived from the case; the functions under test are those that training calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

from tests.oracle_tools import (
    Network, Unknown, batch, build, gradients, labels, loss_and_gradients, numbers, stats, tensor,
)
from trainables import losses
from trainables.attack import pgd
from trainables.averages import WeightAverage
from trainables.data import class_counts
from trainables.methods import done, faal, gairat, mail, srat, wat

RUN: dict[tuple[str, str | None], Callable[[dict, dict], dict]] = {}


def oracle(method: str, kind: str | None = None):
    def keep(function):
        RUN[method, kind] = function
        return function
    return keep


def find(method: str, kind: str | None):
    if (method, kind) in RUN:
        return RUN[method, kind]
    kinds = [k for m, k in RUN if m == method]
    if not kinds:
        raise Unknown(f"unknown method {method!r}; known: {', '.join(sorted({m for m, _ in RUN}))}")
    raise Unknown(f"unknown kind {kind!r} of method {method}; known: {', '.join(map(str, kinds))}")


def width(inputs: dict, key: str = "logits_adv") -> int:
    return len(inputs[key][0])


@oracle("attack")
def run_attack(inputs, params):
    x, y = tensor(inputs["x"]), labels(inputs["y"])
    kind, begin = params["loss"], None
    network = Network(inputs["model"], scale=1 / len(y) if kind == "ce" else 1.0)  # the file: mean for ce, sum else
    if kind == "kl":
        clean, begin = network(x), x + 0.001 * tensor(inputs["noise"])
        objective = lambda z, t: losses.kl(clean, z)  # noqa: E731
    elif kind in ("ce", "cw"):
        objective = losses.logit_margin if kind == "cw" else lambda z, t: F.cross_entropy(z, t, reduction="none")
        begin = x.clamp(0, 1)
    else:
        raise Unknown(f"unknown attack loss {kind!r}; known: ce, cw, kl")
    found, survived = pgd(network, x, y, objective, eps=tensor(params["eps"]), step=tensor(params["step"]),
                          steps=params["steps"], x_start=begin)
    logits = network(found)
    return {"x_adv": found, "logits_adv": logits, "ce_adv": F.cross_entropy(logits, y, reduction="none"),
            "kappa": survived, "min_abs_grad": network.min_abs_grad}


@oracle("balanced_softmax")
def run_balanced_softmax(inputs, params):
    return loss_and_gradients(build("bsl", width(inputs), counts=params["class_counts"]), inputs)


@oracle("cfa")
def run_cfa(inputs, params):
    k, acc = width(inputs), tensor(inputs["train_robust_acc"])
    out = {}
    for form in ("trades", "at"):
        method = build("cfa", k, start=params["begin"], form=form, beta=params["beta"], class_beta=params["ccr"],
                       lambda_1=params["lambda_1"], lambda_2=params["lambda_2"])
        method.end_epoch(stats(k, epoch=params["epoch"] - 1, train_robust=acc))
        out |= loss_and_gradients(method, inputs, suffix=f"_{form}", epoch=params["epoch"])
        if form == "trades":
            out |= {"class_eps": params["eps"] * method.eps_scale(torch.arange(k)), "class_beta": method.class_beta()}
    rows = [{} for _ in inputs["epoch_weights"]]
    for kind in ("fawa", "ema"):
        for row, found in zip(rows, _averages(kind, inputs, params)):
            row |= found
    return out | {"averages_per_epoch": rows}


class _Weights(torch.nn.Module):
    """A model that is nothing but one parameter and one buffer."""

    def __init__(self, values: dict):
        super().__init__()
        self.param = torch.nn.Parameter(tensor(values["param"]))
        self.register_buffer("buffer", tensor(values["buffer"]))


def _averages(kind: str, inputs: dict, params: dict):
    """CFA's weight average after every epoch."""
    k = width(inputs)
    method = build("cfa", k, average=kind, decay=params["decay"], threshold=params["threshold"])
    average = WeightAverage(_Weights(inputs["fawa_init"]))
    for epoch, (values, acc) in enumerate(zip(inputs["epoch_weights"], inputs["valid_robust_class_acc"])):
        now = stats(k, epoch=epoch, val_robust=tensor(acc))
        method.end_epoch(now)
        average.update(_Weights(values), method.average_decay(now))
        row = {f"{kind}_param": average.model.param.clone(), f"{kind}_buffer": average.model.buffer.clone()}
        yield row | ({"fawa_started": bool(method.averaging)} if kind == "fawa" else {})


@oracle("cfol")
def run_cfol(inputs, params):
    method = build("cfol", width(inputs), counts=params["class_counts"], gamma=params["gamma"], eta=params["eta"],
                   eta_beta=params["eta_beta"], base=params["base_dist"], prior=params["prior"],
                   mode="reweight" if params["reweight"] else "sample")

    def state():
        return {"w": method.log_weights.clone(), "q": torch.softmax(method.log_weights, 0),
                "p": method.sampling_weights().clone(), "mixed": method.mixture()}

    first = state()
    out = loss_and_gradients(method, inputs | {"y": inputs["batches"][0]["y"]})
    per_batch = []
    for step in inputs["batches"]:
        # logits whose prediction is right or wrong as the file says
        y, wrong = labels(step["y"]), labels([int(w) for w in step["wrong"]])
        method.end_step(batch(step["y"], [F.one_hot((y + wrong) % width(inputs), width(inputs)).double()]))
        per_batch.append(state())
    return {"q0": first["q"], "p0": first["p"], "loss_first_batch": out["loss"],
            "grad_logits_adv": out["grad_logits_adv"], "per_batch": per_batch}


@oracle("class_balanced")
def run_class_balanced(inputs, params):
    if params["rule"] not in ("Reweight", "DRW"):
        raise Unknown(f"unknown rule {params['rule']!r}; known: Reweight, DRW")
    k, epoch, out = len(params["class_counts"]), params["epoch"], {}
    logits = tensor(inputs["logits"], grad=True)
    for name, loss_name, beta in (("ce", "ce", params["beta"]), ("ldam", "ldam", 0.0), ("focal", "focal", 0.0),
                                  ("ldam_weighted", "ldam", params["beta"])):
        method = build("srat", k, counts=params["class_counts"], loss=loss_name, one_minus_beta=1 - beta, sep_weight=0.0,
                       reduction="batch", gamma=params["gamma"], max_margin=params["max_m"], scale=params["s"],
                       start=160 if params["rule"] == "DRW" else 0)
        loss = method(batch(inputs["y"], [logits], epoch=epoch))
        out |= {f"loss_{name}": loss, f"grad_{name}": gradients(loss, logits)[0]}
        if name == "ce":
            out |= {"cb_weights": method.weights_at(epoch), "ldam_margins": method.margins}
    return out


@oracle("dafa", "weights_loss")
def run_dafa(inputs, params):
    probs, y, k = tensor(inputs["probs"]), labels(inputs["labels"]), width(inputs)
    sums = torch.zeros(k, k, dtype=torch.float64).index_add(0, y, probs)
    out = {}
    for form in ("trades", "at"):
        method = build("dafa", k, form=form, lam=params["lamb"], beta=params["beta"], floor=float("-inf"))
        method.end_epoch(stats(k, train_probs=sums, train_count=losses.class_sizes(y, k, torch.float64)))
        out |= loss_and_gradients(method, inputs, suffix=f"_{form}") | {"class_weights": method.class_weights}
    return out


@oracle("dafa", "trades_attack")
def run_dafa_attack(inputs, params):
    x, y, network = tensor(inputs["x"]), labels(inputs["y"]), Network(inputs["model"])
    method = build("dafa", len(inputs["class_weights"]), form="trades")
    method.class_weights.copy_(tensor(inputs["class_weights"]))
    clean, factor = network(x), method.eps_scale(y)
    found, _ = pgd(network, x, y, lambda z, t: method.inner_loss(z, t, clean), eps=params["eps"] * factor,
                   step=params["step"] * factor, steps=params["steps"], x_start=x + 0.001 * tensor(inputs["noise"]))
    return {"x_adv": found, "min_abs_grad": network.min_abs_grad}


@oracle("faal")
def run_faal(inputs, params):
    method = build("faal", width(inputs), form=params["loss"].lower(), radius=params["r"], beta=6.0)
    here = batch(inputs["y"], [tensor(inputs["logits_adv"])])
    weights = method.class_weights(here)
    return {"class_margin": faal.class_margins(here.logits_adv, here.y), "weights": weights, "weights_exact": weights,
            **loss_and_gradients(method, inputs), **loss_and_gradients(method, inputs, suffix="_exact")}


@oracle("frl")
def run_frl(inputs, params):
    modes = {"rw": ("reweight", 2.5), "rw_rm": ("both", 3.0)}
    if params["variant"] not in modes:
        raise Unknown(f"unknown variant {params['variant']!r}; known: {', '.join(modes)}")
    mode, largest = modes[params["variant"]]
    k = width(inputs)
    method = build("frl", k, mode=mode, bound_clean=params["bound0"], bound_boundary=params["bound1"],
                   rate=params["rate1"], margin_rate=params["rate2"], limit=params["lim"], max_radius=largest, beta=params["beta"])
    rows = []
    for errors in zip(*(tensor(inputs[name]) for name in (
            "class_clean_error", "class_boundary_error", "total_clean_error", "total_boundary_error"))):
        method.update(*errors)
        rows.append({"lambda_clean": method.lam_clean.clone(), "lambda_boundary": method.lam_boundary.clone(),
                     "lambda_remargin": method.lam_remargin.clone(), **method.class_weights(),
                     "eps_multiplier": method.eps_scale(torch.arange(k))})
    return {"per_epoch": rows, **loss_and_gradients(method, inputs)}


@oracle("gairat", "weights_loss")
def run_gairat(inputs, params):
    method = build("gairat", width(inputs), steps=params["num_steps"], lam=numbers(params["Lambda"]), func=params["func"].lower())
    here = batch(inputs["y"], [tensor(inputs["logits_adv"])], survived=inputs["kappa"])
    return {"weights": method.weights(here), "ce": here.cross_entropy(here.logits_adv), **loss_and_gradients(method, inputs)}


@oracle("gairat", "lambda_schedule")
def run_gairat_schedule(inputs, params):
    switch = 60 if params["epochs"] >= 110 else 30  # the authors' fixed switch points
    return {"Lambda": [gairat.lambda_at(epoch, params["epochs"], numbers(params["Lambda"]), numbers(params["Lambda_max"]),
                                        params["schedule"], switch) for epoch in inputs["epoch_1based"]]}


def _ratio(factor: float) -> float:
    """The ratio whose reciprocal is ``factor`` to the last bit, where there is one: counts are truncated products."""
    near = (1 / factor, math.nextafter(1 / factor, 0), math.nextafter(1 / factor, math.inf))
    return next((r for r in near if 1 / r == factor), near[0])


@oracle("imbalance")
def run_imbalance(inputs, params):
    k = params["num_classes"]
    counts = class_counts(params["total_samples"] / k, k, params["type"], _ratio(params["factor"]))
    if "targets" not in inputs:
        return {"class_counts": counts}
    from trainables.data.split import thin
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
    out = {"losses": values, "weights": weights, "objective": objective, "weighted_loss": loss,
           "grad_losses": torch.autograd.grad(objective, values, retain_graph=True)[0],
           "kl_to_uniform": (loss - objective) / params["r"], "ess": 1 / weights.square().sum()}
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
    return {"t": torch.stack([-losses.prob_margin(z, here.y) for z in adv], 1), "weights_raw": weights_raw.T,
            "residual_raw": residual_raw, "weights": weights.T, "residual": residual, "loss": loss,
            "grad_logits_adv": torch.stack(grads[:-1]), "grad_logits_res": grads[-1]}


@oracle("mail")
def run_mail(inputs, params):
    adv, y = tensor(inputs["logits_adv"]), labels(inputs["y"])
    out = {"margin": losses.prob_margin(adv, y), "weights": mail.margin_weights(adv, y, params["slope"], params["bias"])}
    for form in ("at", "trades", "mart"):
        method = build("mail", width(inputs), form=form, slope=params["slope"], bias=params["bias"], beta=params["beta"])
        out |= loss_and_gradients(method, inputs, suffix=f"_{form}")
    return out


@oracle("mart")
def run_mart(inputs, params):
    method = build("mart", width(inputs), beta=params["beta"])
    here = batch(inputs["y"], [tensor(inputs["logits_adv"])], tensor(inputs["logits_nat"]))
    boosted, robust = method.terms(here)
    return loss_and_gradients(method, inputs) | {
        "loss_bce": boosted.mean(), "loss_robust": robust.mean(), "new_y": losses.wrong_class(here.logits_adv, here.y)}


@oracle("pareto")
def run_pareto(inputs, params):
    from tuner.front import hypervolume, nondominated
    maximise = [d == "max" for d in params["directions"]]
    points = [numbers(row) for row in inputs["points"]]
    front = nondominated(points, maximise)
    return {"valid_indices": [i for i, p in enumerate(points) if nondominated([p], maximise)],
            "nondominated_indices": front,
            "nondominated_first_indices": [i for i in front if points.index(points[i]) == i],
            "hypervolume": hypervolume(points, params["reference"], maximise)}


@oracle("supcon")
def run_supcon(inputs, params):
    raw, y = tensor(inputs["raw"], grad=True), labels(inputs["y"])
    if params["contrast_mode"] not in ("all", "one"):
        raise Unknown(f"unknown contrast_mode {params['contrast_mode']!r}; known: all, one")
    features = F.normalize(raw, dim=2)
    views = raw.shape[1]
    loss = srat.supcon(features.transpose(0, 1).flatten(0, 1), y.repeat(views), params["temperature"],
                       base_temperature=params["base_temperature"],
                       anchors=len(y) if params["contrast_mode"] == "one" else None)
    g_features, g_raw = torch.autograd.grad(loss, [features, raw])
    if views == 1 and params["temperature"] == params["base_temperature"]:  # then it is SRAT's own term, to the bit
        method = build("srat", int(y.max()) + 1, temperature=params["temperature"], sep_weight=1.0)
        flat = raw.squeeze(1)
        logits = torch.zeros(len(y), int(y.max()) + 1, dtype=torch.float64)
        loss = method(batch(inputs["y"], [logits], features=flat)) - method.class_loss(batch(inputs["y"], [logits])).mean()
        g_raw = gradients(loss, raw)[0]
    return {"features": features, "loss": loss, "grad_features": g_features, "grad_raw": g_raw}


@oracle("trades")
def run_trades(inputs, params):
    method = build("trades", width(inputs), beta=params["beta"])
    natural, robust = method.terms(batch(inputs["y"], [tensor(inputs["logits_adv"])], tensor(inputs["logits_nat"])))
    return loss_and_gradients(method, inputs) | {"loss_natural": natural.mean(), "loss_robust": robust.mean()}


@oracle("wat", "weights")
def run_wat_weights(inputs, params):
    method, rows = build("wat", params["num_classes"], eta=params["eta"], beta=params["beta"]), []
    for natural, boundary in zip(tensor(inputs["nat_cost"]), tensor(inputs["bndy_cost"])):
        method.update(natural + params["beta"] * boundary)
        rows.append(method.expert_weights.tolist())
    return {"weights_per_epoch": rows}


@oracle("wat", "loss")
def run_wat_loss(inputs, params):
    method = build("wat", params["num_classes"], beta=params["beta"])
    method.expert_weights.copy_(tensor(inputs["weights"]))
    return loss_and_gradients(method, inputs)


@oracle("wat", "validate")
def run_wat_validate(inputs, params):
    k = params["num_classes"]
    clean, adv = (torch.cat([tensor(b[name]) for b in inputs["batches"]]) for name in ("logits_nat", "logits_adv"))
    y = torch.cat([labels(b["y"]) for b in inputs["batches"]])
    ce, divergence = build("wat", k, beta=params["beta"]).terms(batch(y.tolist(), [adv], clean))
    seen = len(inputs["batches"]) * params["batch_size"]  # theirs; ours is the number of images
    right = (adv.argmax(1) == y).double()
    found = stats(k, val_count=losses.class_sizes(y, k, torch.float64), val_robust=losses.class_sums(right, y, k))
    return {"nat_cost": wat.validation_cost(losses.class_sums(ce, y, k), seen),
            "bndy_cost": wat.validation_cost(losses.class_sums(divergence, y, k), seen),
            "robust_acc": right.mean(), "class_robust_acc": found.val_robust_acc()}
