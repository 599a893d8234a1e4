"""Fixtures that cost seconds are made once per worker: a finished search of the real thing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
# One actor: starting a second one costs more than these trials do.
SMALL = [
    "--max-epochs",
    "3",
    "--set",
    "passes=1",
    "--set",
    "attack_steps=4",
    "--set",
    "eval_attack=4",
    "--max-concurrent",
    "1",
]


def tuner(*args, env=None, timeout=240, cwd=None):
    """Run the command line as a user does; returns the finished process."""
    return subprocess.run(
        [sys.executable, "-m", "tuner.cli", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **(env or {})},
        cwd=cwd,
    )


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """(result JSON, home, stderr) of one search through the command line."""
    home = tmp_path_factory.mktemp("home")
    done = tuner("search", "--method", "srat", "--trials", 6, *SMALL, "--name", "first", "--home", home, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), Path(home), done.stderr


@pytest.fixture(scope="session")
def parquet_dir(tmp_path_factory):
    """A real Parquet data set as hubs publish them: 3 classes of 32x32 PNGs, each a colour with noise."""
    import io

    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    folder, rng = tmp_path_factory.mktemp("parquet"), np.random.default_rng(0)
    for split, each in (("train", 40), ("test", 8)):
        rows = []
        for label in range(3):
            for number in range(each):
                pixels = rng.integers(0, 120, (32, 32, 3), dtype=np.uint8)
                pixels[..., label] += 100
                png = io.BytesIO()
                Image.fromarray(pixels).save(png, "PNG")
                rows.append({"img": {"bytes": png.getvalue(), "path": f"{split}/{label}/{number}.png"}, "label": label})
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}.parquet")
    return folder
