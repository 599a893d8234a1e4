"""Images, decoded once per machine, mapped by every trial, split so that no search meets the test set.

prepare / check          no torch, quick: the driver calls them before Ray starts
open_splits              what a trial trains and is judged on: `train` and `val`
open_test                the only way to the test images; `tuner verify` and `tuner audit` alone call it
digest                   of a split: what its images and labels are
"""

from trainables.data.files import absolute
from trainables.data.spec import DataError, DataSpec, Reading, class_counts, parse_imbalance
from trainables.data.split import Summary, check
from trainables.data.store import prepare, share
from trainables.data.tensors import Split, Splits, digest, open_splits, open_test

__all__ = [
    "DataError",
    "DataSpec",
    "Reading",
    "Split",
    "Splits",
    "Summary",
    "absolute",
    "check",
    "class_counts",
    "digest",
    "open_splits",
    "open_test",
    "parse_imbalance",
    "prepare",
    "share",
]
