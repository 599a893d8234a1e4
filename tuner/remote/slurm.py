"""`tuner submit --slurm`: a batch script of a search, written into the home folder and queued."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
from importlib.resources import files
from typing import Any

from tuner.errors import ClusterError, UsageError
from tuner.escape import one_line
from tuner.files import write_atomically
from tuner.home import Home
from tuner.spec.search_spec import SearchSpec

OPTION = re.compile(r"--[a-z][a-z-]*(=[^\s#]+)?")
ANSWER_S = 60


def submit_slurm(spec: SearchSpec, home: Home | None = None, options: str = "") -> dict[str, Any]:
    """Write ``slurm/NAME.sbatch`` and the spec, ``slurm/NAME-HASH.yaml``, below the home, which all nodes must see, and
    queue the script: {"id", "search", "script"}. It starts Ray over the allocation, runs or resumes the search, and
    goes back into the queue where its time is over.

    ``options``: sbatch's, such as ``--nodes=2 --gpus-per-node=4``. ``UsageError`` for another word among them or where
    there is no sbatch; ``ClusterError`` with what sbatch says where it refuses the job.
    """
    home, given, name = home or Home(), sbatch_options(options), spec.search_name
    home.require_writable()
    folder, text = home.root / "slurm", spec.to_yaml()
    # SLURM copies the script, but the spec is read when the job begins: another one of this name may come before
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    script, written = folder / f"{name}.sbatch", folder / f"{name}-{digest}.yaml"
    write_atomically(script, batch_script(["--job-name=" + name, *given]))
    write_atomically(written, text)
    command = ["sbatch", "--parsable", str(script), "--spec", str(written), "--name", name]
    if not shutil.which("sbatch"):
        there = f"TUNER_HOME={shlex.quote(str(home.root))} {shlex.join(command)}"
        raise UsageError(f"--slurm needs sbatch, which this machine does not have; where it is, run: {there}")
    environment = {**os.environ, "TUNER_HOME": str(home.root)}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=ANSWER_S)
    except subprocess.TimeoutExpired:
        raise ClusterError(
            f"no answer of sbatch in {ANSWER_S} s; `squeue --me` shows whether it took the job"
        ) from None
    if done.returncode:
        raise ClusterError(f"sbatch did not take the job: {one_line(done.stderr)[:300]}")
    return {"id": done.stdout.strip().split(";")[0], "search": name, "script": str(script)}


def sbatch_options(text: str) -> list[str]:
    """``--NAME`` or ``--NAME=VALUE`` each."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"--slurm {text!r} is not allowed: {error}") from None
    for word in words:
        if not OPTION.fullmatch(word):
            raise UsageError(
                f"--slurm {word!r} is not allowed; it takes options of sbatch as --NAME=VALUE, such as --nodes=2"
            )
    return words


def batch_script(options: list[str]) -> str:
    """The script with these options in place of its own of the same names."""
    names = {option.partition("=")[0] for option in options}
    lines = (files("tuner.remote") / "search.sbatch").read_text().splitlines()
    own = [line for line in lines if line.startswith("#SBATCH ")]
    kept = [line for line in own if line.split()[1].partition("=")[0] not in names]
    at = lines.index(own[0])
    rest = [line for line in lines[at:] if line not in own]
    return "\n".join([*lines[:at], *kept, *(f"#SBATCH {option}" for option in options), *rest, ""])
