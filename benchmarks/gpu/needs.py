"""Packages that a bare GPU machine may lack, told in words, or installed from a folder of wheels. Imports none of them.

Neither Ray nor MLflow is among them.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

# The module; who needs it where that is not all; what is carried as wheels where there is no index.
NEEDED = {
    "torch": "",
    "torchvision": "",
    "pyarrow": "",
    "PIL": "",
    "scipy": "",
    "yaml": "",
    "optuna": "with its own alembic, mako, sqlalchemy, colorlog, tqdm",
    "pytest": "for check",
    "pyautoattack": "for nosearch and front; without it APGD alone attacks",
}


def missing() -> dict[str, str]:
    """The modules that are not here, and what for."""
    return {name: why for name, why in NEEDED.items() if not find_spec(name)}


def install(wheels: Path, into: Path) -> None:
    """All wheels of a folder, without an index; ``SystemExit`` where pip fails."""
    files = [str(path) for path in sorted(wheels.glob("*.whl"))]
    if not files:
        raise SystemExit(f"--wheels {wheels}: there is no *.whl in it")
    options = ["-q", "--no-index", "--no-deps", "--no-compile", "--upgrade", "--target", str(into)]
    if subprocess.run([sys.executable, "-m", "pip", "install", *options, *files]).returncode:
        raise SystemExit(f"--wheels {wheels}: pip could not install them")
    use(into)


def use(site: Path) -> None:
    """Also find modules there, in this process and those that it starts."""
    os.environ["PYTHONPATH"] = os.pathsep.join(p for p in (str(site.absolute()), os.environ.get("PYTHONPATH")) if p)
    sys.path.insert(0, str(site.absolute()))
    importlib.invalidate_caches()
