"""MART: boosted cross-entropy, and a divergence weighted by how unsure the model is on the clean image.

Read: github.com/YisenWang/MART, train_resnet.py and train_wideresnet.py.
"""

from dataclasses import dataclass

from search_spaces.param import loguniform, param

PAPER = "Wang et al., ICLR 2020"
SUMMARY = "boosted cross-entropy plus KL weighted by misclassification"
STEM = {"form": "mart"}

# MART's code, read: github YisenWang/MART, train_resnet.py and mart.py; its epochs count from 1, so that its drops are one
# epoch earlier. It passes clean images through batch norm once.
EPOCHS = 120
RECIPE = {
    "batch_size": 128,
    "lr": 0.01,
    "weight_decay": 3.5e-3,
    "milestones": "0.625,0.75,0.833",  # 75, 90 and 100 of 120
    "attack_steps": 10,
    "step_size": 0.226,  # 0.007 of 0.031
    "attack_start": "gaussian",
}


@dataclass(frozen=True)
class Params:
    beta: float = param(5.0, loguniform(1.0, 10.0), "weight of the KL term (ResNet-18: 5, WRN: 6)", source="code", acts_as="KL weight")
