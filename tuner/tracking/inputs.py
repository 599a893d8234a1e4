"""What a search trains on and is judged on, as MLflow's data sets: inputs of its run and of its trials' runs."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from tuner import escape
from tuner.spec.search_spec import SearchSpec

if TYPE_CHECKING:  # importing MLflow takes seconds
    from mlflow.entities import DatasetInput

    from trainables.data import Summary

CONTEXTS = {"train": "training", "val": "validation"}  # of our splits, in MLflow's words
NAME_LENGTH = 500  # the longest name of a data set that MLflow takes


def data_inputs(spec: SearchSpec, summary: Summary) -> list[DatasetInput]:
    """`train` and `val` of a search, which all its trials share. ``summary``: what they are; ``OSError`` where the
    decoded images are gone.

    A digest is of the images, labels and what chooses among them: data that were moved or decoded again keep it.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag

    from trainables.data.store import content

    decoded = content(summary.decoded)
    chosen = {name: getattr(spec, name) for name in ("imbalance", "seed", "val_fraction", "val_per_class")}
    source = json.dumps({"uri": spec.dataset, **chosen})
    features = {"type": "tensor", "tensor-spec": {"dtype": "uint8", "shape": [-1, *summary.shape]}}
    labels = {"type": "tensor", "tensor-spec": {"dtype": "int64", "shape": [-1]}}
    schema = {"mlflow_tensorspec": {"features": json.dumps([features]), "targets": json.dumps([labels])}}

    def given(split: str) -> DatasetInput:
        digest = hashlib.sha256(repr((decoded, chosen, split)).encode()).hexdigest()[:16]
        name = escape.mlflow(f"{spec.dataset}: {split}", NAME_LENGTH)
        profile = {"images": sum(summary.counts[split]), "images_per_class": summary.counts[split]}
        data = Dataset(name, digest, "local", source, json.dumps(schema), json.dumps(profile))
        return DatasetInput(data, [InputTag("mlflow.data.context", CONTEXTS[split])])

    return [given(split) for split in CONTEXTS]
