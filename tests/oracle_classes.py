"""Oracle files of the class-level methods: (inputs, params) -> outputs, all derived from the case."""

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
    oracle,
    stats,
    tensor,
    width,
)
from trainables import losses
from trainables.attack import pgd
from trainables.averages import WeightAverage
from trainables.methods import faal, wat


@oracle("balanced_softmax")
def run_balanced_softmax(inputs, params):
    return loss_and_gradients(build("bsl", width(inputs), counts=params["class_counts"]), inputs)


@oracle("cfa")
def run_cfa(inputs, params):
    k, acc = width(inputs), tensor(inputs["train_robust_acc"])
    out = {}
    for form in ("trades", "at"):
        method = build(
            "cfa",
            k,
            start=params["begin"],
            form=form,
            beta=params["beta"],
            class_beta=params["ccr"],
            lambda_1=params["lambda_1"],
            lambda_2=params["lambda_2"],
        )
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
        now = stats(k, epoch=epoch, val_ce_robust=tensor(acc))
        method.end_epoch(now)
        if (decay := method.average_decay(now)) is not None:
            average.update(_Weights(values), decay)
        row = {f"{kind}_param": average.model.param.clone(), f"{kind}_buffer": average.model.buffer.clone()}
        yield row | ({"fawa_started": bool(method.averaging)} if kind == "fawa" else {})


@oracle("cfol")
def run_cfol(inputs, params):
    base, prior = (known(params[name], name, ("uniform", "empirical")) for name in ("base_dist", "prior"))
    method = build(
        "cfol",
        width(inputs),
        counts=params["class_counts"],
        gamma=params["gamma"],
        eta=params["eta"],
        eta_beta=params["eta_beta"],
        base=base,
        prior=prior,
        mode="reweight" if params["reweight"] else "sample",
    )

    def state():
        return {
            "w": method.log_weights.clone(),
            "q": torch.softmax(method.log_weights, 0),
            "p": method.sampling_weights().clone(),
            "mixed": method.mixture(),
        }

    first = state()
    out = loss_and_gradients(method, inputs | {"y": inputs["batches"][0]["y"]})
    per_batch = []
    for step in inputs["batches"]:
        # logits whose prediction is right or wrong as the file says
        y, wrong = labels(step["y"]), labels([int(w) for w in step["wrong"]])
        method.end_step(batch(step["y"], [F.one_hot((y + wrong) % width(inputs), width(inputs)).double()]))
        per_batch.append(state())
    return {
        "q0": first["q"],
        "p0": first["p"],
        "loss_first_batch": out["loss"],
        "grad_logits_adv": out["grad_logits_adv"],
        "per_batch": per_batch,
    }


@oracle("class_balanced")
def run_class_balanced(inputs, params):
    start = known(params["rule"], "rule", {"Reweight": 0, "DRW": 160})
    k, epoch, out = len(params["class_counts"]), params["epoch"], {}
    logits = tensor(inputs["logits"], grad=True)
    for name, loss_name, beta in (
        ("ce", "ce", params["beta"]),
        ("ldam", "ldam", 0.0),
        ("focal", "focal", 0.0),
        ("ldam_weighted", "ldam", params["beta"]),
    ):
        method = build(
            "srat",
            k,
            counts=params["class_counts"],
            loss=loss_name,
            one_minus_beta=1 - beta,
            sep_weight=0.0,
            reduction="batch",
            gamma=params["gamma"],
            max_margin=params["max_m"],
            scale=params["s"],
            start=start,
        )
        loss = method(batch(inputs["y"], [logits], epoch=epoch))
        out |= {f"loss_{name}": loss, f"grad_{name}": gradients(loss, logits)[0]}
        if name == "ce":
            ones = torch.ones_like(method.class_weights)
            weights = method.class_weights if method.started(epoch) else ones
            out |= {"cb_weights": weights, "ldam_margins": method.margins}
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
    found, _ = pgd(
        network,
        x,
        y,
        lambda z, t: method.inner_loss(z, t, clean),
        eps=params["eps"] * factor,
        step=params["step"] * factor,
        steps=params["steps"],
        x_start=x + 0.001 * tensor(inputs["noise"]),
    )
    return {"x_adv": found, "min_abs_grad": network.min_abs_grad}


@oracle("faal")
def run_faal(inputs, params):
    form = known(params["loss"], "loss", {"AT": "at", "TRADES": "trades", "MART": "mart"})
    method = build("faal", width(inputs), form=form, radius=params["r"], beta=6.0)
    here = batch(inputs["y"], [tensor(inputs["logits_adv"])])
    weights = method.class_weights(here)
    return {
        "class_margin": faal.class_margins(here.logits_adv, here.y),
        "weights": weights,
        "weights_exact": weights,
        **loss_and_gradients(method, inputs),
        **loss_and_gradients(method, inputs, suffix="_exact"),
    }


@oracle("frl")
def run_frl(inputs, params):
    mode, largest = known(
        params["variant"], "variant", {"rw": ("reweight", 2.5), "rm": ("remargin", 2.5), "rw_rm": ("both", 3.0)}
    )
    k = width(inputs)
    method = build(
        "frl",
        k,
        mode=mode,
        bound_clean=params["bound0"],
        bound_boundary=params["bound1"],
        rate=params["rate1"],
        margin_rate=params["rate2"],
        limit=params["lim"],
        max_radius=largest,
        beta=params["beta"],
    )
    rows = []
    for errors in zip(
        *(
            tensor(inputs[name])
            for name in ("class_clean_error", "class_boundary_error", "total_clean_error", "total_boundary_error")
        )
    ):
        method.update(*errors)
        rows.append(
            {
                "lambda_clean": method.lam_clean.clone(),
                "lambda_boundary": method.lam_boundary.clone(),
                "lambda_remargin": method.lam_remargin.clone(),
                **method.class_weights(),
                "eps_multiplier": method.eps_scale(torch.arange(k)),
            }
        )
    return {"per_epoch": rows, **loss_and_gradients(method, inputs)}


@oracle("robustlt")
def run_robustlt(inputs, params):
    counts, epochs = params["class_counts"], params["epochs"]
    values = {"spread": params["alpha"], "ramp": params["beta"], "strength": params["tau_b"]}
    method = build("robustlt", len(counts), counts=counts, epochs=epochs, **values)
    rows = []
    for epoch in sorted({1, 2, max(2, epochs // 5), epochs // 2, epochs}):
        if epoch > 1:
            method.end_epoch(stats(len(counts), epoch=epoch - 2))
        rows.append({"epoch": epoch, "class_eps": params["eps"] * method.eps_scale(torch.arange(len(counts)))})
    return {"per_epoch": rows, **loss_and_gradients(method, inputs)}


@oracle("spectral")
def run_spectral(inputs, params):
    k, y = width(inputs), labels(inputs["labels"])
    nearest = losses.nearest_class(tensor(inputs["logits"]), y)
    confusion = torch.zeros(k, k, dtype=torch.float64)
    confusion.index_put_((y, nearest), torch.ones(len(y), dtype=torch.float64), accumulate=True)
    method = build("spectral", k, beta=params["beta"])
    sizes = losses.class_sizes(y, k, torch.float64)
    method.end_epoch(stats(k, train_confusion=confusion, train_count=sizes))
    out = loss_and_gradients(method, inputs)
    of = method.weights[tensor(inputs["logits_adv"]).argmax(1), labels(inputs["y"])]
    out["loss"] = out["loss"] + 0.3 * (of * of.log()).mean()  # their divergence has this constant
    return {"confusion": (confusion - confusion.diagonal().diag()).T, "weights": method.weights, **out}


@oracle("taet")
def run_taet(inputs, params):
    return loss_and_gradients(build("taet", width(inputs), **params), inputs)


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
    clean = torch.cat([tensor(b["logits_nat"]) for b in inputs["batches"]])
    adv = torch.cat([tensor(b["logits_adv"]) for b in inputs["batches"]])
    y = torch.cat([labels(b["y"]) for b in inputs["batches"]])
    ce, divergence = build("wat", k, beta=params["beta"]).terms(batch(y.tolist(), [adv], clean))
    seen = len(inputs["batches"]) * params["batch_size"]  # theirs; ours is the number of images
    right = (adv.argmax(1) == y).double()
    found = stats(k, val_count=losses.class_sizes(y, k, torch.float64), val_robust=losses.class_sums(right, y, k))
    counts = torch.full((k,), seen / k, dtype=torch.float64)  # the authors divide as if validation were balanced
    return {
        "nat_cost": wat.validation_cost(losses.class_sums(ce, y, k), counts),
        "bndy_cost": wat.validation_cost(losses.class_sums(divergence, y, k), counts),
        "robust_acc": right.mean(),
        "class_robust_acc": found.val_robust_acc(),
    }
