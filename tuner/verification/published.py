"""Results that others published, for the leaderboard: average and worst class under attack, in per cent.

A row's ``source`` says where it was read. ``second_hand``: in notes of others about it, not in its own paper or code.
All are of L-infinity with 8/255 and of CIFAR-10's test images. What attack a figure is of is told as far as its source
tells it; no two sources are known to use the same one, so differences of a point mean little.
"""

from __future__ import annotations

from dataclasses import dataclass

DAFA = "github.com/rucy74/DAFA, table in its README (attack version not said)"
FAAL = "github.com/TrustAI/FAAL, logs (epoch chosen on the test images)"
LOG = "a reproduction's log"


@dataclass(frozen=True)
class Published:
    name: str
    model: str
    average: float
    worst: float | None
    source: str
    imbalance: str = "none"
    second_hand: bool = False


PUBLISHED = (
    Published("TRADES", "ResNet-18", 49.80, 21.31, DAFA),
    Published("FRL", "ResNet-18", 44.68, 25.84, DAFA),
    Published("CFA", "ResNet-18", 50.78, 27.62, DAFA),
    Published("WAT", "ResNet-18", 46.30, 28.55, DAFA),
    Published("DAFA", "ResNet-18", 49.05, 30.53, DAFA),
    Published("FAAL, 2 epochs", "PreActResNet-18", 45.51, 31.10, FAAL),
    Published("FAAL with AWP", "PreActResNet-18", 46.68, 30.10, FAAL),
    Published("FAAL with AWP", "PreActResNet-18", 47.62, 30.70, FAAL),
    Published("AT", "ResNet-18", 48.72, None, "PyTorch-Robust"),
    Published("TRADES with AWP", "ResNet-18", 51.86, None, "PyTorch-Robust"),
    Published("DAT with AWP and SWA", "ResNet-18", 52.8, None, "a survey", second_hand=True),
    Published("IDBH", "ResNet-18", 52.3, None, "a survey", second_hand=True),
    Published("AT-BSL", "ResNet-18", 33.0, None, LOG, "exp:50:all"),
    Published("AT-BSL with RandAugment", "ResNet-18", 33.8, None, LOG, "exp:50:all"),
    Published("AT-BSL", "WideResNet-28-10", 34.6, None, "its successors", "exp:50:all", second_hand=True),
    Published("RobustLT", "WideResNet-28-10", 37.5, None, "notes about it", "exp:50:all", second_hand=True),
)
