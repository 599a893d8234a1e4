"""Verification in this process, for tests of what happens with its results."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tuner.verification import verify


@contextmanager
def without_ray() -> Iterator[None]:
    """`verify_search` tests its models here, without Ray, and logs nothing to MLflow."""

    def here(jobs, spec, attack, say):
        for group in verify.same_model(jobs):
            for event in verify.verify_here(group, attack):
                verify.keep(group, attack, event)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify, "run_jobs", here)
        patch.setattr(verify, "_to_mlflow", lambda *args: None)
        yield
