"""What `deploy/` holds, checked as far as one machine can: schemas, shell, parsing, and every command it names."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pytest
import yaml

from tests.postgres import WHY_NOT, postgres
from tests.s3 import s3_server
from tests.test_submit import free_ports

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
KUBE = DEPLOY / "kubernetes"
SCRIPTS = sorted([*DEPLOY.rglob("*.sh"), *DEPLOY.rglob("*.sbatch")])
TEXTS = sorted(p for p in [*DEPLOY.rglob("*"), ROOT / "Dockerfile"] if p.is_file() and p.suffix != ".env")


def documents(path):
    return [d for d in yaml.safe_load_all(path.read_text()) if d]


MANIFESTS = [(p, d) for p in sorted(KUBE.rglob("*.yaml")) for d in documents(p) if isinstance(d, dict) and "kind" in d]


def strict(schema):
    """Fields that a schema does not name are mistakes, as the API server's strict validation says."""
    if isinstance(schema, dict):
        schema = {k: strict(v) for k, v in schema.items()}
        if (
            isinstance(schema.get("properties"), dict)
            and "additionalProperties" not in schema
            and not schema.get("x-kubernetes-preserve-unknown-fields")
        ):
            schema["additionalProperties"] = False
        if schema.get("x-kubernetes-int-or-string"):
            schema.pop("type", None)
        return schema
    return [strict(v) for v in schema] if isinstance(schema, list) else schema


@cache
def ray_schema(kind):
    """KubeRay's own schema of a kind, as a validator: checking the schema itself takes most of the time."""
    from jsonschema.validators import validator_for

    schema = strict(json.loads((ROOT / f"tests/data/schemas/kuberay-{kind.lower()}-v1.schema.json").read_text()))
    schema["properties"]["metadata"] = {"type": "object"}
    validator_for(schema).check_schema(schema)
    return validator_for(schema)(schema)


# What we write of Kueue's objects, closed. Against Kueue's own schemas (v1beta1 at ff69552, August 2026, which are not
# kept here), strictly as above, they were validated once.
RESOURCE = {"name": str, "nominalQuota": str}
KUEUE = {
    "ResourceFlavor": {},
    "LocalQueue": {"spec": {"clusterQueue": str}},
    "WorkloadPriorityClass": {"value": int},
    "ClusterQueue": {
        "spec": {
            "cohort": str,
            "namespaceSelector": {"matchLabels": dict},
            "preemption": {"reclaimWithinCohort": str, "withinClusterQueue": str},
            "resourceGroups": [{"coveredResources": [str], "flavors": [{"name": str, "resources": [RESOURCE]}]}],
        }
    },
}


def closed(value, shape):
    """Whether a value has a shape, and no key more."""
    if isinstance(shape, dict):
        return set(value) == set(shape) and all(closed(value[key], of) for key, of in shape.items())
    if isinstance(shape, list):
        return bool(value) and all(closed(item, shape[0]) for item in value)
    return isinstance(value, shape)


def check_manifest(manifest):
    if manifest["apiVersion"] == "ray.io/v1":
        ray_schema(manifest["kind"]).validate(manifest)
    elif manifest["apiVersion"] == "kueue.x-k8s.io/v1beta1":
        rest = {key: value for key, value in manifest.items() if key not in ("apiVersion", "kind", "metadata")}
        assert closed(rest, KUEUE[manifest["kind"]]), manifest["metadata"]["name"]
    elif manifest["kind"] != "Kustomization":
        import kubernetes_validate

        kubernetes_validate.validate(manifest, "1.31", strict=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "path, manifest",
    MANIFESTS,
    ids=lambda v: f"{v['kind']}-{v.get('metadata', {}).get('name', '')}" if isinstance(v, dict) else v.parent.name,
)
def test_manifest_is_what_its_schema_says(path, manifest):
    check_manifest(manifest)


@pytest.mark.slow
def test_schemas_do_refuse():
    """The check above is worth something: a wrong field and a wrong type are found."""
    cluster = next(d for _, d in MANIFESTS if d["kind"] == "RayCluster")
    for wrong in ({"spec": {**cluster["spec"], "headGruop": {}}}, {"spec": {**cluster["spec"], "rayVersion": 2}}):
        with pytest.raises(Exception, match="headGruop|is not of type"):
            check_manifest({**cluster, **wrong})


def patched(folder, kind="RayCluster"):
    """The object of a folder with patches, its JSON patches applied (add, replace and remove are all they use)."""
    cluster = next(d for _, d in MANIFESTS if d["kind"] == kind)
    cluster = json.loads(json.dumps(cluster))
    kustomization = documents(folder / "kustomization.yaml")[0]
    for patch in kustomization["patches"]:
        assert patch["target"] == {"kind": kind, "name": cluster["metadata"]["name"]}
        text = patch.get("patch") or (folder / patch["path"]).read_text()
        for step in yaml.safe_load(text):
            *keys, last = step["path"].strip("/").split("/")
            place = cluster
            for key in keys:
                place = place[int(key) if isinstance(place, list) else key]
            if last == "-":
                place.append(step["value"])
            elif step["op"] == "remove":
                del place[last]
            else:
                assert step["op"] == "add" or last in place
                place[last] = step["value"]
    return cluster


@pytest.mark.parametrize("overlay", ["cpu", "gpu"])
def test_overlay(overlay):
    cluster = patched(KUBE / "overlays" / overlay)
    check_manifest(cluster)
    gpus = [
        c["resources"]["limits"].get("nvidia.com/gpu")
        for g in cluster["spec"]["workerGroupSpecs"]
        for c in g["template"]["spec"]["containers"]
    ]
    assert any(gpus) == (overlay == "gpu")


def quantity(text):
    """A Kubernetes quantity as a number: 500m, 8Gi, 4."""
    number, unit = re.fullmatch(r"([0-9.]+)(m|[KMGT]i|)", str(text)).groups()
    return float(number) * {"m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "": 1}[unit]


@pytest.mark.slow
def test_a_queued_search_can_be_admitted():
    """Kueue's conditions for a RayJob (its page on them, 2026), and that queue, priority and quota fit together."""
    from tuner.spec import known

    job, queues = patched(KUBE / "queued", "RayJob"), documents(KUBE / "queued/queues.yaml")
    check_manifest(job)
    named = {(d["kind"], d["metadata"]["name"]): d for d in queues}
    assert len(named) == len(queues) and all(d["apiVersion"] == "kueue.x-k8s.io/v1beta1" for d in queues)
    spec, cluster, labels = job["spec"], job["spec"]["rayClusterSpec"], job["metadata"]["labels"]
    assert spec["suspend"] is True and spec["shutdownAfterJobFinishes"] is True and "clusterSelector" not in spec
    assert cluster["enableInTreeAutoscaling"] is False and len(cluster["workerGroupSpecs"]) <= 7
    owner, priority = (labels[f"kueue.x-k8s.io/{key}"] for key in ("queue-name", "priority-class"))
    assert f"--owner {owner} --priority {priority}" in spec["entrypoint"]
    values = [named["WorkloadPriorityClass", name]["value"] for name in known.priorities()]
    assert values == sorted(set(values)), "low, normal, high"
    queue = named["LocalQueue", owner]
    kustomization = documents(KUBE / "queued/kustomization.yaml")[0]
    assert queue["metadata"]["namespace"] == kustomization["namespace"]
    quota = named["ClusterQueue", queue["spec"]["clusterQueue"]]["spec"]
    (group,) = quota["resourceGroups"]
    (flavor,) = group["flavors"]
    assert ("ResourceFlavor", flavor["name"]) in named
    asked = {}
    for replicas, template in [
        (1, cluster["headGroupSpec"]),
        *((g["replicas"], g) for g in cluster["workerGroupSpecs"]),
    ]:
        for container in template["template"]["spec"]["containers"]:
            for name, amount in container["resources"]["requests"].items():
                asked[name] = asked.get(name, 0) + replicas * quantity(amount)
    nominal = {r["name"]: quantity(r["nominalQuota"]) for r in flavor["resources"]}
    assert set(asked) <= set(group["coveredResources"]) == set(nominal)
    assert asked["cpu"] == 10 and all(nominal[name] >= amount for name, amount in asked.items())
    grows = next(v for v in env_of(cluster) if v["name"] == "TUNER_CLUSTER_GROWS")
    assert grows["value"] == "" and all(g["minReplicas"] == g["maxReplicas"] for g in cluster["workerGroupSpecs"])


def env_of(cluster):
    return cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["env"]


def test_kustomizations_name_files_that_exist():
    for path in KUBE.rglob("kustomization.yaml"):
        wanted = documents(path)[0]
        for name in [*wanted["resources"], *(p["path"] for p in wanted.get("patches", []) if "path" in p)]:
            assert (path.parent / name).exists(), f"{path}: {name}"


def test_kubernetes_is_locked():
    kinds = {(d["kind"], d["metadata"]["name"]): d for _, d in MANIFESTS if d["kind"] != "Kustomization"}
    assert not [k for k in kinds if k[0] == "Secret"], "secrets are referred to, never written down"
    assert ("NetworkPolicy", "nothing-by-default") in kinds
    pods = []
    for (kind, _), d in kinds.items():
        spec = d["spec"] if kind == "RayCluster" else d.get("spec", {}).get("rayClusterSpec")
        if spec:
            assert spec["authOptions"] == {"mode": "token"}
            pods += [
                spec["headGroupSpec"]["template"]["spec"],
                *(g["template"]["spec"] for g in spec["workerGroupSpecs"]),
            ]
        elif kind in ("Deployment", "StatefulSet"):
            pods.append(d["spec"]["template"]["spec"])
    assert len(pods) >= 6
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"]
        for container in pod["containers"]:
            assert (
                container["securityContext"]["allowPrivilegeEscalation"] is False
                and container["resources"]["limits"]["memory"]
            )
            for variable in container.get("env", []):
                assert "value" not in variable or not re.search("(PASSWORD|TOKEN|SECRET)$", variable["name"])

    assert {
        s["rayVersion"]
        for s in (
            d["spec"] if d["kind"] == "RayCluster" else d["spec"].get("rayClusterSpec", {})
            for _, d in MANIFESTS
            if d["apiVersion"] == "ray.io/v1"
        )
    } == set(re.findall(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.M)), "what the image is built with"


def test_compose():
    compose = documents(DEPLOY / "compose/compose.yaml")[0]
    services = compose["services"]
    assert {"postgres", "s3", "mlflow", "ray-head", "ray-worker"} <= set(services)
    for name, service in services.items():
        assert "image" in service and (name == "bucket" or "healthcheck" in service), name
        for needed in service.get("depends_on", {}):
            assert needed in services
        for volume in service.get("volumes", []):
            source, colon, _ = volume.partition(":")
            named = source in compose["volumes"] or (DEPLOY / "compose" / source).is_file()
            assert named if colon else source == "/tmp", volume
        assert set(service["networks"]) <= set(compose["networks"])
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} is reachable from outside"
        for variable, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|TOKEN|KEY", variable):
                assert re.fullmatch(r"\$\{\w+:\?.+\}", value), f"{name}: {variable} has a default"


def native(service, address):
    """A compose service's environment, its secrets filled in and the S3 store at ``address``."""
    values = {k: re.sub(r"\$\{\w+:\?.+\}", "0123456789abcdef", v) for k, v in service["environment"].items()}
    return {**os.environ, **{k: address if v == "http://s3:8333" else v for k, v in values.items()}}


def test_compose_store(tmp_path):
    """The service `bucket` runs as written, twice, against a real S3 server; what Ray's services then use works."""
    services = documents(DEPLOY / "compose/compose.yaml")[0]["services"]
    python, *rest = services["bucket"]["command"]
    assert python == "python"
    with s3_server(int(next(free_ports(1)))) as s3:
        for _ in range(2):
            subprocess.run([sys.executable, *rest], env=native(services["bucket"], s3.address), check=True)
        buckets = {b["Name"] for b in s3.client().list_buckets()["Buckets"]}
        wanted = {
            services["ray-head"]["environment"]["TUNER_STORAGE"].removeprefix("s3://").split("/")[0],
            services["mlflow"]["command"][-1].removeprefix("s3://").split("/")[0],
        }
        assert wanted <= buckets
        for name in ("ray-head", "ray-worker"):
            assert "store" in services[name]["networks"] and "store" in services["s3"]["networks"]
            code = (
                "import os; from trainables.storage import storage_problem; "
                "print(storage_problem(os.environ['TUNER_STORAGE']))"
            )
            done = subprocess.run(
                [sys.executable, "-c", code],
                env=native(services[name], s3.address),
                cwd=ROOT,
                capture_output=True,
                text=True,
            )
            assert done.stdout == "None\n", done.stdout + done.stderr


@pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
def test_compose_mlflow(tmp_path):
    """The service `mlflow` as written, but for addresses: PostgreSQL, an S3 server behind it, its password and health
    check."""
    service = documents(DEPLOY / "compose/compose.yaml")[0]["services"]["mlflow"]
    store, port = free_ports(2)
    with s3_server(int(store)) as s3, postgres() as database:
        s3.client().create_bucket(Bucket="mlflow")
        server, password = database.partition("@")[2], database.split(":")[2].partition("@")[0]
        env = {
            **native(service, s3.address),
            "MLFLOW_S3_ENDPOINT_URL": s3.address,
            "AWS_ENDPOINT_URL": s3.address,
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
            "AWS_DEFAULT_REGION": "us-east-1",
            "MLFLOW_BACKEND_STORE_URI": f"postgresql+psycopg://tuner@{server}",
            "MLFLOW_AUTH_CONFIG_PATH": str(tmp_path / "auth.ini"),
            "PGPASSWORD": password,
        }
        users = (DEPLOY / "compose/mlflow-auth.ini").read_text()
        (tmp_path / "auth.ini").write_text(users.replace("mlflow@postgres:5432/mlflow", f"tuner@{server}"))
        address = f"http://127.0.0.1:{port}"
        command = [{"0.0.0.0": "127.0.0.1", "5000": port, "2": "1"}.get(word, word) for word in service["command"]]
        process = subprocess.Popen(
            [Path(sys.executable).parent / command[0], *command[1:]],
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            _, python, flag, code = service["healthcheck"]["test"]
            check = [sys.executable, flag, code.replace("http://127.0.0.1:5000", address)]
            deadline = time.time() + 180
            while subprocess.run(check, capture_output=True).returncode:
                assert process.poll() is None and time.time() < deadline
                time.sleep(0.5)
            code = (
                "import mlflow; mlflow.log_text('hello', 'front.txt'); mlflow.log_metric('hypervolume', 0.5); "
                "run = mlflow.active_run().info; mlflow.end_run(); "
                "print(run.artifact_uri, mlflow.artifacts.load_text(run.artifact_uri + '/front.txt'))"
            )
            signed = {"MLFLOW_TRACKING_USERNAME": "tuner", "MLFLOW_TRACKING_PASSWORD": "0123456789abcdef"}
            user = {**os.environ, "MLFLOW_TRACKING_URI": address, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
            no_one = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=user)
            assert no_one.returncode and "401" in no_one.stderr + no_one.stdout
            done = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, env={**user, **signed}
            )  # a user has no key to the store
            last = done.stdout.splitlines()[-1:]
            assert last and re.fullmatch("mlflow-artifacts:/.+ hello", last[0]), done.stdout + done.stderr
            kept = s3.client().list_objects_v2(Bucket="mlflow")["Contents"]
            assert [item["Key"].split("/")[0] for item in kept] == ["artifacts"]
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_make_env(tmp_path):
    script = tmp_path / "make-env.sh"
    script.write_bytes((DEPLOY / "compose/make-env.sh").read_bytes())
    for _ in range(2):  # the second run keeps what is there
        subprocess.run(["bash", script], check=True, capture_output=True)
        text = (tmp_path / ".env").read_text()
    values = dict(line.split("=") for line in text.splitlines())
    wanted = set(re.findall(r"\$\{(\w+):\?", (DEPLOY / "compose/compose.yaml").read_text()))
    assert (
        set(values) == wanted
        and all(len(v) == 48 for v in values.values())
        and len(set(values.values())) == len(values)
    )
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_cluster_launcher_files(cloud):
    import jsonschema
    import ray

    config = documents(DEPLOY / f"cloud/{cloud}.yaml")[0]
    schema = json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())
    jsonschema.validate(config, schema)
    assert config["provider"]["type"] == cloud and config["head_node_type"] in config["available_node_types"]
    for name, kind in config["available_node_types"].items():
        spot = "spot" in json.dumps(kind["node_config"]).lower()
        assert spot == (name != config["head_node_type"])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: str(p.relative_to(DEPLOY)))
def test_shellcheck(script):
    found = subprocess.run([Path(sys.executable).parent / "shellcheck", script], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


def test_dockerfile():
    """hadolint has nothing to say; and what it does not ask: health check, pinned packages, files that exist."""
    text = (ROOT / "Dockerfile").read_text()
    lines = [
        " ".join(line.split())
        for line in text.replace("\\\n", " ").splitlines()
        if line.strip() and not line.startswith("#")
    ]
    steps = [line.split(" ", 1) for line in lines]
    known = {"FROM", "ARG", "SHELL", "ENV", "WORKDIR", "COPY", "RUN", "USER", "VOLUME", "HEALTHCHECK", "CMD"}
    assert {name for name, _ in steps} <= known
    for name, rest in steps:
        if name == "FROM":
            assert re.search(r":\S*\d", rest) and "latest" not in rest
        if name == "CMD":
            json.loads(rest)
        if name == "COPY" and "--from" not in rest:
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
        if name == "RUN" and "apt-get install" in rest:
            assert "--no-install-recommends" in rest and "-y" in rest and "rm -rf /var/lib/apt/lists" in rest
    users = [rest for name, rest in steps if name == "USER"]
    assert users and users[-1].split(":")[0] not in ("0", "root")
    assert any(name == "HEALTHCHECK" for name, _ in steps) and "requirements.txt" in text
    assert "pipefail" in text
    bin_ = Path(sys.executable).parent
    linted = subprocess.run([bin_ / "hadolint", "--no-color", ROOT / "Dockerfile"], capture_output=True, text=True)
    assert linted.returncode == 0, linted.stdout
    run = "\n".join(rest for name, rest in steps if name == "RUN")
    checked = subprocess.run([bin_ / "shellcheck", "-s", "bash", "-"], input=run, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    assert "*" in (ROOT / ".dockerignore").read_text().split(), "data and homes stay out of the image"


def commands():
    """Every `tuner ...` that a file of deploy/ tells someone to type or runs itself."""
    for path in TEXTS:
        text = path.read_text().replace("\\\n", " ")
        for found in re.finditer(
            r"(?:^\s*(?:\$ )?|entrypoint: |&& |exec |then )tuner ([a-z]+)([^\n|;&`>]*)", text, re.MULTILINE
        ):
            yield path, found[1], found[2]


def test_commands_exist():
    from typer.main import get_command

    from tuner.cli.app import app

    known, seen = get_command(app).commands, 0
    for path, name, rest in commands():
        assert name in known, f"{path}: tuner {name}"
        flags = {o for p in known[name].params for o in p.opts} | {"--help"}
        rest = re.sub(r"\s#.*| {2,}[a-zA-Z(].*", "", rest)
        for word in shlex.split(rest):
            if word.startswith("--"):
                assert word.split("=")[0] in flags, f"{path}: tuner {name} {word}"
        seen += 1
    assert seen >= 8


def test_pages_and_no_host_names():
    for folder in ("local", "compose", "kubernetes", "slurm", "cloud"):
        page = DEPLOY / folder / "README.md"
        for name in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / name).exists(), f"{page}: {name}"
