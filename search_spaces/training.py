"""The hyperparameters that every method shares: optimiser, attack, evaluation. `--set KEY=VALUE` sets one for a search.

A source ``code`` says here that the code of most methods' authors has this value; that of others may differ.

Pixels are in [0, 1] and `eps`, `step_size` are in the same unit. A space file may also put one of them into the search.
"""

from __future__ import annotations

from dataclasses import dataclass

from search_spaces.param import choice, fractions, integer, loguniform, param, uniform

PIXEL = 1 / 255


@dataclass(frozen=True)
class Training:
    batch_size: int = param(128, integer(2, 4096, log=True), "images per training step", source="code", searched=False)
    passes: int = param(1, integer(1, 64), "passes over the training images that count as one epoch, for very small data", source="ours", searched=False)
    lr: float = param(0.1, loguniform(1e-4, 1.0), "peak learning rate of SGD", source="code", searched=False)
    momentum: float = param(0.9, uniform(0.0, 0.99), "SGD momentum", source="code", searched=False)
    weight_decay: float = param(5e-4, uniform(0.0, 1e-2), "weight decay", source="code", searched=False)
    nesterov: str = param("off", choice("off", "on"), "Nesterov's form of the momentum", source="code", searched=False)
    schedule: str = param("piecewise", choice("piecewise", "cosine", "onecycle", "constant"), "learning rate over the epochs; piecewise divides by 10 at each of `milestones`", source="code", searched=False)
    milestones: str = param("auto", fractions("auto"), "piecewise: fractions of the epochs after which the learning rate is divided by 10; auto = 100/110 and 105/110 where at least 20 epochs are trained (late drops overfit less, Pang et al. 2021), else 0.75 and 0.9", source="ours", searched=False)
    augment: str = param("crop-flip", choice("none", "crop", "crop-flip", "randaugment", "autoaugment"), "random crop after padding by an eighth, horizontal flip; randaugment (2 operations of magnitude 9) and autoaugment (CIFAR-10's policy) come after both", source="code", searched=False)
    padding: str = param("zero", choice("zero", "reflect"), "what moves in at the border of a random crop", source="code", searched=False)
    eps: float = param(8 * PIXEL, uniform(1e-4, 1.0), "radius of the training attack and of the evaluation, in the norm of the threat model", source="code", searched=False)
    attack_steps: int = param(10, integer(1, 100), "steps of the training attack (PGD)", source="code", searched=False)
    step_size: float = param(0.25, uniform(0.01, 2.0), "step of the training attack as a fraction of eps", source="code", searched=False)
    attack_start: str = param("uniform", choice("none", "uniform", "gaussian"), "where the attack starts: at x, uniform in the ball, x + 0.001 N(0,1); one on the KL divergence (TRADES) always as the last", source="code", searched=False)
    attack_bn: str = param("eval", choice("eval", "train"), "batch norm during the attack: running or batch statistics", source="code", searched=False)
    clean_bn: str = param("once", choice("once", "twice"), "passes of the clean images through the batch norm of a training step: once after the adversarial ones, where the loss reads them, or before them too, as TRADES' code does (its running statistics are then 67 % clean, not 53 %)", source="ours", searched=False)
    eval_attack: int = param(10, integer(1, 200), "steps of each of the two attacks that judge an epoch (CE-PGD, margin-PGD)", source="ours", searched=False)
    class_weights: str = param("none", choice("none", "inverse", "effective"), "shared option: weight every sample's loss by its class (1/n, or effective number with beta 0.9999), mean 1 over the training images", source="ours", searched=False)
    label_smoothing: float = param(0.0, uniform(0.0, 0.5), "shared option: label smoothing of the cross-entropy", source="ours", searched=False)
    awp: float = param(0.0, uniform(0.0, 0.05), "shared option: adversarial weight perturbation, relative size gamma; 0 = off (paper: 0.005)", source="ours", searched=False)
    ema: float = param(0.0, uniform(0.0, 0.9999), "shared option: decay of an exponential moving average of the weights per step, less in the first steps; the average is then what is evaluated; 0 = off", source="ours", searched=False)
    head_repair: str = param("none", choice("none", "norm", "sam"), "shared option: repair of the trained model's linear head, before it is judged for the last time: norm = class weight vectors scaled to one length; sam = an epoch of sharpness-aware tuning of the head alone on adversarial images", source="ours", searched=False)
    clip_grad: float = param(0.0, uniform(0.0, 1000.0), "largest norm of a step's gradient, to which a larger one is scaled; 0 = no limit; vision transformers need one (1.0, Mo et al. 2022)", source="ours", searched=False)
    precision: str = param("auto", choice("auto", "fp32", "bf16"), "arithmetic of training and attack; auto = bf16 on a GPU that has it, and on a CPU that has it for images above 16 pixels, else fp32", source="ours", searched=False)
    compile: str = param("off", choice("off", "on"), "torch.compile for the attack model; a first start takes half a minute or more; on a GPU for models that cuDNN cannot fuse (ResNet-18 gains nothing)", source="ours", searched=False)
    cuda_graph: str = param("on", choice("on", "off"), "on a GPU, attacks are recorded once and replayed; off for a model that cannot be recorded", source="ours", searched=False)

