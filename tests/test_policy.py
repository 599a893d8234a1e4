"""S13: the rules of `deploy/`, asked cheaply; `make policy` asks a policy linter, whose waivers are explained here."""

import importlib.metadata
import re
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from tests.policy import KUBE, documents, manifests

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
OBJECTS = list(manifests())
CLAIMS = {claim["metadata"]["name"] for o in OBJECTS for claim in o.get("spec", {}).get("volumeClaimTemplates", [])}
PODS = {
    (o["kind"], o["metadata"]["name"]): o["spec"]["template"]["spec"] if "template" in o["spec"] else o["spec"]
    for o in OBJECTS
    if o["kind"] in ("Deployment", "StatefulSet", "Pod")
}
CONTAINERS = [(pod, container) for pod in PODS.values() for container in pod["containers"]]
POLICIES = {o["metadata"]["name"]: o["spec"] for o in OBJECTS if o["kind"] == "NetworkPolicy"}
COMPOSE = documents(DEPLOY / "compose/compose.yaml")[0]
PINNED = r"[\w./-]+:[\w.-]*\d[\w.-]*@sha256:[0-9a-f]{64}"
OURS = "tuner:0.1.0"  # the image that the user builds


def test_s13_there_are_pods_to_look_at():
    assert len(PODS) == 7 and ("Pod", "gpu-0") in PODS and len(POLICIES) >= 8


def test_s13_images_are_pinned_by_digest_except_the_one_that_is_built_here():
    images = {container["image"] for _, container in CONTAINERS}
    images |= {s["image"] for s in COMPOSE["services"].values()} - {"${TUNER_IMAGE:-tuner:0.1.0}"}
    images |= set(re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.M))
    assert all(re.fullmatch(PINNED, image) for image in images - {OURS}) and len(images - {OURS}) == 3
    assert len({image.partition("@")[0]: image for image in images}) == len(images), "one digest for a tag"


@pytest.mark.parametrize("pod, container", CONTAINERS, ids=lambda v: v.get("name", "pod"))
def test_s13_a_container_can_write_its_volumes_alone(pod, container):
    security = container["securityContext"]
    assert security["readOnlyRootFilesystem"] is True and security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["seccompProfile"]["type"] != "Unconfined"
    assert pod["securityContext"]["runAsUser"] > 10000 or container["image"].startswith("postgres:")
    assert {"cpu", "memory"} <= set(container["resources"]["limits"])
    mounted = {m["mountPath"]: m["name"] for m in container["volumeMounts"]}
    assert "/tmp" in mounted and set(mounted.values()) <= CLAIMS | {v["name"] for v in pod["volumes"]}
    if container["image"] == OURS:
        assert {"name": "HOME", "value": "/tmp"} in container["env"]


def test_s13_the_autoscaler_and_its_pod():
    """Its container is KubeRay's; only its pods ask Kubernetes for anything."""
    for path, kind in (("base/raycluster.yaml", None), ("rayjob/rayjob.yaml", "rayClusterSpec")):
        (found,) = documents(KUBE / path)
        options = (found["spec"][kind] if kind else found["spec"])["autoscalerOptions"]
        assert (
            options["securityContext"]["readOnlyRootFilesystem"] and options["volumeMounts"][0]["mountPath"] == "/tmp"
        )
    with_token = {name for (_, name), pod in PODS.items() if pod.get("automountServiceAccountToken") is not False}
    assert with_token == {"tuner-0", "tuner-search-0"}


def test_s13_mlflow_and_postgresql_have_probes():
    for key in (("Deployment", "mlflow"), ("StatefulSet", "postgres")):
        (container,) = PODS[key]["containers"]
        assert {"readinessProbe", "livenessProbe"} <= set(container)


def test_s13_nothing_goes_in_or_out_by_default():
    default = POLICIES["nothing-by-default"]
    assert default["podSelector"] == {} and set(default["policyTypes"]) == {"Ingress", "Egress"}
    assert "ingress" not in default and "egress" not in default
    for name, policy in POLICIES.items():
        for rule in policy.get("ingress", []) + policy.get("egress", []):
            peers = rule.get("from", []) + rule.get("to", [])
            assert peers, f"{name} lets everybody through"
            for peer in peers:
                assert peer.get("podSelector") or "ipBlock" in peer, f"{name}: any pod"
                assert peer.get("namespaceSelector") != {}, f"{name}: any namespace"
                if "ipBlock" in peer:
                    assert not peer["ipBlock"]["cidr"].endswith("/0") and rule["ports"], f"{name}: any address"


def test_s13_only_the_operators_own_pods_reach_ray_from_elsewhere():
    """S13's finding: any pod that called itself kuberay-operator, in any namespace."""
    from_elsewhere = [
        (name, peer)
        for name, policy in POLICIES.items()
        for rule in policy.get("ingress", [])
        for peer in rule["from"]
        if "namespaceSelector" in peer
    ]
    ((name, peer),) = from_elsewhere
    assert name == "operator-to-head"
    assert peer["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "kuberay-system"}
    assert POLICIES[name]["ingress"][0]["ports"] == [{"protocol": "TCP", "port": 8265}]


def allowed(policies, source, target, port):
    """Whether a connection between pods with these labels passes: both sides' policies must let it."""

    def selects(selector, labels):
        wanted = selector.get("matchLabels", {})
        return all(labels.get(k) == v for k, v in wanted.items()) and all(
            e["operator"] == "Exists" and e["key"] in labels for e in selector.get("matchExpressions", [])
        )

    def side(direction, own, other, key):
        rules = [
            rule
            for policy in policies.values()
            if direction in policy["policyTypes"] and selects(policy["podSelector"], own)
            for rule in policy.get(direction.lower(), [])
        ]
        return any(
            any(
                "podSelector" in p and "namespaceSelector" not in p and selects(p["podSelector"], other) for p in r[key]
            )
            and ("ports" not in r or port in [x["port"] for x in r["ports"]])
            for r in rules
        )

    return side("Egress", source, target, "to") and side("Ingress", target, source, "from")


RAY = {"ray.io/cluster": "tuner", "ray.io/node-type": "worker"}
HEAD = {"ray.io/cluster": "tuner", "ray.io/node-type": "head"}
MLFLOW, POSTGRES, OTHER = (
    {"app.kubernetes.io/name": "mlflow"},
    {"app.kubernetes.io/name": "postgres"},
    {"app.kubernetes.io/name": "kuberay-operator"},
)


@pytest.mark.parametrize(
    "source, target, port, passes",
    [
        (RAY, HEAD, 6379, True),
        (HEAD, RAY, 10002, True),
        (RAY, MLFLOW, 5000, True),
        (MLFLOW, POSTGRES, 5432, True),
        (RAY, POSTGRES, 5432, False),
        (MLFLOW, HEAD, 8265, False),
        (POSTGRES, MLFLOW, 5000, False),
        (OTHER, HEAD, 8265, False),
        (OTHER, MLFLOW, 5000, False),
        (RAY, OTHER, 443, False),
    ],
)
def test_s13_who_reaches_whom(source, target, port, passes):
    assert allowed(POLICIES, source, target, port) == passes


def test_s13_mlflow_asks_for_a_password_everywhere():
    service = COMPOSE["services"]["mlflow"]
    (container,) = PODS["Deployment", "mlflow"]["containers"]
    kube = {v["name"]: v for v in container["env"]}
    for command, names in ((service["command"], service["environment"]), (container["command"], kube)):
        assert command[command.index("--app-name") + 1] == "basic-auth"
        assert {"MLFLOW_AUTH_CONFIG_PATH", "MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY"} <= set(names)
    for folder in ("compose", "kubernetes/base"):
        text = (DEPLOY / folder / "mlflow-auth.ini").read_text()
        assert "default_permission = NO_PERMISSIONS" in text and not re.search("^admin_password", text, re.M)
    for name in ("ray-head", "ray-worker"):
        assert "MLFLOW_TRACKING_PASSWORD" in COMPOSE["services"][name]["environment"]
    for (kind, _), pod in PODS.items():
        if kind == "Pod":
            assert "MLFLOW_TRACKING_PASSWORD" in {v["name"] for v in pod["containers"][0]["env"]}
    wanted = set(re.findall(r"--from-literal=([\w-]+)=", (KUBE / "README.md").read_text()))
    asked = set(re.findall(r"tuner-secrets, key: ([\w-]+)", "".join(p.read_text() for p in KUBE.rglob("*.yaml"))))
    assert asked <= wanted and {"mlflow-password", "postgres-password"} <= wanted


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_s13_compose(name):
    service = COMPOSE["services"][name]
    assert service["read_only"] is True and service["cap_drop"] == ["ALL"] and "cap_add" not in service
    assert (
        service["security_opt"] == ["no-new-privileges:true"] and service["pids_limit"] and "privileged" not in service
    )
    assert "/tmp" in service.get("tmpfs", []) + service.get("volumes", [])
    outward = [n for n in service["networks"] if not (COMPOSE["networks"][n] or {}).get("internal")]
    assert outward == (["edge"] if service.get("ports") else []), "only what has a port on loopback has a way out"


def test_s13_the_image_installs_what_has_a_hash():
    lines = (DEPLOY / "requirements.txt").read_text().splitlines()[1:]
    assert all(re.fullmatch(r"[a-z0-9.-]+==[\w.+!]+ --hash=sha256:[0-9a-f]{64}", line) for line in lines)
    hashed = dict(line.split(" ")[0].split("==") for line in lines)
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    pinned = {name.lower().replace("_", "-"): version for name, version in pinned.items()}
    assert {name: pinned.get(name) for name in hashed} == hashed, "run deploy/hash-requirements.sh"
    if importlib.metadata.version("torch") == pinned["torch"]:  # else other versions are installed, with other needs
        assert needed("robust-tuner", "service") - {"robust-tuner"} <= set(hashed)
    text = (ROOT / "Dockerfile").read_text()
    assert "--require-hashes" in text and "deploy/requirements.txt" in text


def needed(name, extra=""):
    """The distributions that one needs here, and theirs."""
    found, todo = set(), [(name, extra)]
    while todo:
        name, extra = todo.pop()
        if (name, extra) in found:
            continue
        found.add((name, extra))
        for line in importlib.metadata.requires(name) or []:
            wanted = Requirement(line)
            if wanted.marker is None or any(wanted.marker.evaluate({"extra": e}) for e in {extra, ""}):
                if wanted.url is None:
                    todo += [(wanted.name.lower().replace("_", "-"), e) for e in wanted.extras or [""]]
    return {name for name, _ in found}


def test_s13_every_waiver_is_explained():
    text = (KUBE / "policy.yaml").read_text()
    waived = yaml.safe_load(text)["skip-check"]
    reasons = re.findall(r"^  - (CKV\w+) +# (.{30,})$", text, re.M)
    assert [check for check, _ in reasons] == waived
    assert "policy.yaml" in (ROOT / "Makefile").read_text()
