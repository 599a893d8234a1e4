"""What is installed is whole: a wheel built from the tree works from another folder, and lists the three packages."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = {"tuner", "trainables", "search_spaces"}


def test_wheel_works_from_another_folder(tmp_path):
    source = tmp_path / "source"  # a copy: setuptools would find files of earlier builds beside the checkout
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    subprocess.run(
        # with the setuptools of this environment: a test downloads nothing
        ["uv", "build", "--quiet", "--wheel", "--no-build-isolation", "--out-dir", tmp_path / "dist", source],
        check=True,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "VIRTUAL_ENV": sys.prefix,
            "UV_OFFLINE": "1",
        },
    )
    (wheel,) = (tmp_path / "dist").glob("robust_tuner-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.split("/")[0] for n in names if ".dist-info/" not in n} == PACKAGES
    assert {n for n in names if n.endswith("py.typed")} == {f"{p}/py.typed" for p in PACKAGES}, "they say their types"
    folders = {n.split("/")[1] for n in names if n.startswith("trainables/") and n.count("/") > 1}
    assert folders >= {"data", "methods", "models"}
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    code = (
        "import tuner, trainables.methods.srat, search_spaces; print(tuner.__file__); "
        "from tuner.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "space", "srat"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(site)},
    )
    assert done.returncode == 0, done.stderr
    assert str(site) in done.stdout and "sep_weight" in done.stdout
    scripts = [n for n in names if n.endswith("entry_points.txt")]
    assert "tuner = tuner.cli:main" in zipfile.ZipFile(wheel).read(scripts[0]).decode()
