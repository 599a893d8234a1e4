"""The Kubernetes manifests as a policy linter needs them: `python -m tests.policy FOLDER` writes them there.

As kustomize would make them, each in its namespace and with its image; Ray's clusters, which linters do not know, as
the pods that KubeRay makes of them.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

KUBE = Path(__file__).parent.parent / "deploy" / "kubernetes"


def documents(path: Path) -> list[dict]:
    return [d for d in yaml.safe_load_all(path.read_text()) if d]


def manifests() -> Iterator[dict]:
    """Every object of `base/` and `rayjob/`, and the pods of all Ray clusters."""
    for folder in ("base", "rayjob"):
        (kustomization,) = documents(KUBE / folder / "kustomization.yaml")
        images = {i["name"]: f"{i['newName']}:{i['newTag']}" for i in kustomization["images"]}
        for name in kustomization["resources"]:
            for found in documents(KUBE / folder / name):
                yield from _placed(found, kustomization["namespace"], images)
    gpu = yaml.safe_load((KUBE / "overlays/gpu/gpu-workers.yaml").read_text())
    for step in gpu:
        yield from _pods("gpu", [step["value"]["template"]], kustomization["namespace"], images)


def _placed(found: dict, namespace: str, images: dict[str, str]) -> Iterator[dict]:
    found = copy.deepcopy(found)
    if found["kind"] != "Namespace":
        found["metadata"]["namespace"] = namespace
    cluster = found["spec"].get("rayClusterSpec", found["spec"]) if found["apiVersion"] == "ray.io/v1" else None
    if cluster:
        groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
        yield from _pods(found["metadata"]["name"], [g["template"] for g in groups], namespace, images)
        return
    if pod := found.get("spec", {}).get("template", {}).get("spec"):
        _with_images(pod, images)
    yield found


def _pods(name: str, templates: list[dict], namespace: str, images: dict[str, str]) -> Iterator[dict]:
    for number, template in enumerate(templates):
        pod = copy.deepcopy(template["spec"])
        _with_images(pod, images)
        about = {"name": f"{name}-{number}", "namespace": namespace, "labels": {"ray.io/cluster": name}}
        yield {"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": pod}


def _with_images(pod: dict, images: dict[str, str]) -> None:
    for container in pod["containers"]:
        container["image"] = images.get(container["image"], container["image"])


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifests.yaml").write_text(yaml.safe_dump_all(manifests(), sort_keys=False))
