"""What may vary: one file per method, and the registry of methods.

A method's equation is in ``trainables/methods/<name>.py``, its hyperparameters in
``search_spaces/<name>.py``.
"""

from search_spaces import (
    at,
    bsl,
    cfa,
    cfol,
    codat,
    dafa,
    done,
    ewat,
    faal,
    fairfront,
    fat,
    frl,
    gairat,
    lrat,
    lsat,
    mail,
    mart,
    mixup,
    reat,
    robal,
    sovr,
    srat,
    trades,
    wat,
    wmmr,
)

METHODS = {
    "at": at,
    "bsl": bsl,
    "cfa": cfa,
    "cfol": cfol,
    "codat": codat,
    "dafa": dafa,
    "done": done,
    "ewat": ewat,
    "faal": faal,
    "fairfront": fairfront,
    "fat": fat,
    "frl": frl,
    "gairat": gairat,
    "lrat": lrat,
    "lsat": lsat,
    "mail": mail,
    "mart": mart,
    "mixup": mixup,
    "reat": reat,
    "robal": robal,
    "sovr": sovr,
    "srat": srat,
    "trades": trades,
    "wat": wat,
    "wmmr": wmmr,
}


def method_space(name: str):
    """The module with a method's ``Params``, ``PAPER`` and ``SUMMARY``; ``ValueError`` lists the known
    names."""
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; choose one of: {', '.join(sorted(METHODS))}")
    return METHODS[name]
