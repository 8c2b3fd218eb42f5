"""What the manifests must hold beside their schema. A policy takes a `Case` and yields what is wrong with it, if anything."""

import re
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path

import manifests
from manifests import ROOT, container, of_kind, only, pod_spec, quantity, seconds, settings

# The newest three, and the oldest that k8s/README.md promises.
VERSIONS = ("1.30", "1.35", "1.36", "1.37")
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
# What the server gives its last calls once the trainers are gone: LAST_CALLS in service/server/src/lib.rs, twice.
LAST_CALLS = 10
PREVIEWS = 2
OPERATOR = "monitoring.coreos.com/v1"
METADATA_SERVICES = {"169.254.169.254/32", "fd00:ec2::254/128"}


@dataclass
class Case:
    """An overlay as rendered, and what it is compared with."""

    objects: list
    readme: str
    server: Path


def schema_holds(case):
    """Every object is what four versions of Kubernetes know, without a field that they do not."""
    import kubernetes_validate

    for one in case.objects:
        # The Prometheus operator's own; `metrics_reach_prometheus` and promtool look at what matters in them.
        if one["apiVersion"] == OPERATOR:
            continue
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(one, version, strict=True)
            except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
                yield f"{one['kind']} against {version}: {error.message}"


def images_have_a_version(case):
    """That of this hone, or a digest."""
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    for one in pod_spec(case.objects)["containers"]:
        if not re.search(rf":{re.escape(version)}(-\w+)?$|@sha256:[0-9a-f]{{64}}$", one["image"]):
            yield one["image"]


def nobody_is_root(case):
    """By the pod's settings, which no container takes back; files of volumes are for the same group."""
    pod = pod_spec(case.objects)["securityContext"]
    for one in pod_spec(case.objects)["containers"]:
        context = {**pod, **one["securityContext"]}
        if context.get("runAsNonRoot") is not True or min(context.get("runAsUser", 0), context.get("runAsGroup", 0)) < 10000:
            yield f"{one['name']}: {context}"
    if pod.get("fsGroup") != pod.get("runAsGroup"):
        yield "the volumes are for another group"


def the_root_is_read_only(case):
    """What is written goes to volumes."""
    for one in pod_spec(case.objects)["containers"]:
        if one["securityContext"].get("readOnlyRootFilesystem") is not True:
            yield one["name"]


def there_are_no_privileges(case):
    """No capabilities, none to be got, nothing of the node."""
    spec = pod_spec(case.objects)
    yield from (name for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name))
    yield from (f"volume {one['name']} is of the node" for one in spec["volumes"] if "hostPath" in one)
    for one in spec["containers"]:
        context = one["securityContext"]
        if context.get("allowPrivilegeEscalation") is not False or context.get("privileged"):
            yield f"{one['name']} may get more rights"
        if context.get("capabilities") != {"drop": ["ALL"]}:
            yield f"{one['name']} has capabilities"


def seccomp_is_on(case):
    """With the runtime's own profile."""
    pod = pod_spec(case.objects)["securityContext"]
    for one in pod_spec(case.objects)["containers"]:
        if {**pod, **one["securityContext"]}.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield one["name"]


def resources_are_bounded(case):
    """Requests equal limits, which makes the pod the last to be evicted; what lies on the node has a size."""
    for one in pod_spec(case.objects)["containers"]:
        limits = one.get("resources", {}).get("limits", {})
        if not {"cpu", "memory"} <= set(limits) or one["resources"].get("requests") != limits:
            yield f"{one['name']}: {one.get('resources')}"
    for one in pod_spec(case.objects)["volumes"]:
        if "emptyDir" in one and "sizeLimit" not in one["emptyDir"]:
            yield f"volume {one['name']} has no limit"


def probes_ask_the_server(case):
    """All three, over gRPC at the port that it listens on, or by hone-health where it speaks TLS; a start may take a minute."""
    one, values = container(case.objects), settings(case.objects)
    port = int(values["HONE_LISTEN"].rsplit(":", 1)[1])
    if [entry["containerPort"] for entry in one["ports"] if entry["name"] == "grpc"] != [port]:
        yield f"the container's port grpc is not {port}"
    for name in PROBES:
        probe = one.get(name, {})
        if "HONE_TLS_CERT" in values:
            if probe.get("exec", {}).get("command", [""])[0] != "hone-health":
                yield f"{name}: the kubelet speaks no TLS"
        elif probe.get("grpc", {}).get("port") != port:
            yield f"{name} does not ask port {port}"
        if probe.get("timeoutSeconds", 1) > probe.get("periodSeconds", 10):
            yield f"{name} takes longer than its period"
    start = one.get("startupProbe", {})
    if start.get("periodSeconds", 10) * start.get("failureThreshold", 3) < 60:
        yield "a start that looks through a bucket may take a minute"


def grace_covers_the_save(case):
    """preStop, the trainers' time and the last calls fit into the grace period, with some to spare."""
    spec = pod_spec(case.objects)
    pre_stop = container(case.objects).get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    if not pre_stop:
        yield "no preStop keeps callers from coming back to a server that leaves"
    needed = pre_stop + seconds(settings(case.objects)["HONE_STOP_GRACE"]) + LAST_CALLS
    if not needed < spec["terminationGracePeriodSeconds"]:
        yield f"{needed:.0f} s do not fit into {spec['terminationGracePeriodSeconds']}"


def documented_secrets(readme):
    """Secrets that the README tells how to make: name -> keys."""
    found = {}
    for command in re.findall(r"kubectl [^\n]*create secret generic [^\n]*(?:\\\n[^\n]*)*", readme):
        name = re.search(r"generic (\S+)", command)[1]
        found[name] = set(re.findall(r"--from-(?:file|literal)=([\w.]+)", command))
    return found


def references_exist(case):
    """Maps and accounts are in the manifests; secrets, which must not be, are made with their keys by commands of the README."""
    maps = {one["metadata"]["name"] for one in of_kind(case.objects, "ConfigMap")}
    secrets = documented_secrets(case.readme)
    spec, one, values = pod_spec(case.objects), container(case.objects), settings(case.objects)
    if spec["serviceAccountName"] not in {account["metadata"]["name"] for account in of_kind(case.objects, "ServiceAccount")}:
        yield f"there is no service account {spec['serviceAccountName']}"
    for source in one.get("envFrom", []):
        if source["configMapRef"]["name"] not in maps:
            yield f"there is no map {source['configMapRef']['name']}"
    for entry in one.get("env", []):
        secret = entry.get("valueFrom", {}).get("secretKeyRef")
        if secret and secret["key"] not in secrets.get(secret["name"], ()):
            yield f"the README makes no secret {secret['name']} with {secret['key']}"
    folders = {}
    for mount in one["volumeMounts"]:
        volume = next((volume for volume in spec["volumes"] if volume["name"] == mount["name"]), {})
        if "secret" in volume:
            folders[mount["mountPath"]] = volume["secret"]["secretName"]
    for name, path in values.items():
        if re.fullmatch(r"HONE_(TOKEN_FILE|TLS_(CERT|KEY|CLIENT_CA|TRAINER_CA))", name):
            folder, key = path.rsplit("/", 1)
            if key not in secrets.get(folders.get(folder), ()):
                yield f"{name}: no secret that the README makes is mounted at {path}"


def secrets_are_elsewhere(case):
    """No Secret, and no setting that is one."""
    yield from (f"secret {one['metadata']['name']}" for one in of_kind(case.objects, "Secret"))
    for name, value in settings(case.objects).items():
        if value is not None and re.search(r"SECRET|PASSWORD|ACCESS_KEY|TOKEN$", name):
            yield f"{name} is written down"


def secrets_can_be_renewed(case):
    """A file mounted by itself stays what it was; every folder of secrets may only be read."""
    secret = {one["name"] for one in pod_spec(case.objects)["volumes"] if "secret" in one}
    for mount in container(case.objects)["volumeMounts"]:
        if mount["name"] in secret and ("subPath" in mount or not mount.get("readOnly")):
            yield mount["mountPath"]


def the_account_may_nothing(case):
    """It has no role and no token, and no Service puts variables among the settings."""
    spec = pod_spec(case.objects)
    yield from (one["kind"] for one in case.objects if one["kind"].endswith(("Role", "RoleBinding")))
    tokens = [spec, *of_kind(case.objects, "ServiceAccount")]
    if any(one.get("automountServiceAccountToken") is not False for one in tokens):
        yield "a token is mounted"
    if spec.get("enableServiceLinks") is not False:
        yield "a Service named hone would set HONE_PORT"


def selects(selector, case):
    """Whether a selector means the pod, by at least one label."""
    labels = only(case.objects, "StatefulSet")["spec"]["template"]["metadata"]["labels"]
    return bool(selector) and selector.items() <= labels.items()


def the_network_is_closed(case):
    """In: named callers, to the port. Out: nothing, or names and the store, and never the node's metadata service."""
    spec = only(case.objects, "NetworkPolicy")["spec"]
    if not selects(spec["podSelector"].get("matchLabels"), case) or set(spec["policyTypes"]) != {"Ingress", "Egress"}:
        yield "the policy does not hold for the pod, both ways"
    ports = {entry["name"] for entry in container(case.objects)["ports"]}
    for rule in spec.get("ingress", []):
        if not rule.get("from") or len(rule.get("ports", [])) != 1 or rule["ports"][0]["port"] not in ports:
            yield f"open to more than named callers of one port: {rule}"
    rules, values = spec.get("egress", []), settings(case.objects)
    has_bucket, has_collector = values.get("HONE_STORAGE_ROOT", "").startswith("s3://"), "HONE_OTLP_ENDPOINT" in values
    if bool(rules) != (has_bucket or has_collector):
        yield "what may go out is not what the storage root needs"
    for rule in rules:
        if has_collector and rule.get("to") == [MONITORING] and [port["port"] for port in rule["ports"]] == [4317]:
            continue
        allowed = {port["port"] for port in rule.get("ports", [])}
        excepted = {cidr for to in rule.get("to", []) for cidr in to.get("ipBlock", {}).get("except", [])}
        if allowed != {53} and (allowed != {443} or not METADATA_SERVICES <= excepted):
            yield f"more than names and a store may be reached: {rule}"


MONITORING = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}


def metrics_reach_prometheus(case):
    """Where there are metrics, the operator finds their port, Prometheus alone may read them, and every alert says what to do."""
    listen = settings(case.objects).get("HONE_METRICS_LISTEN")
    ports = {entry["name"]: entry["containerPort"] for entry in container(case.objects)["ports"]}
    if listen is None:
        yield from (f"port {name} is of nobody" for name in ports if name != "grpc")
        return
    if ports.get("metrics") != int(listen.rsplit(":", 1)[1]):
        yield "the port metrics is another one than the server listens on"
    monitor = only(case.objects, "PodMonitor")["spec"]
    if not selects(monitor["selector"].get("matchLabels"), case) or [one["port"] for one in monitor["podMetricsEndpoints"]] != ["metrics"]:
        yield "the operator finds other metrics"
    for rule in only(case.objects, "NetworkPolicy")["spec"]["ingress"]:
        if [port["port"] for port in rule["ports"]] == ["metrics"] and rule["from"] != [MONITORING]:
            yield f"others than Prometheus may read: {rule['from']}"
    headings = re.findall(r"(?m)^#+ (\w+)$", (ROOT / "docs/operations.md").read_text())
    for group in only(case.objects, "PrometheusRule")["spec"]["groups"]:
        for rule in group["rules"]:
            name = rule["alert"]
            if name not in headings or rule["annotations"].get("runbook") != f"docs/operations.md#{name.lower()}":
                yield f"docs/operations.md does not say what to do about {name}"
            if rule["labels"].get("severity") not in ("critical", "warning"):
                yield f"{name}: who is to be called?"


def a_node_can_be_drained(case):
    """The budget means the pod, and lets it be evicted."""
    spec = only(case.objects, "PodDisruptionBudget")["spec"]
    if not selects(spec.get("selector", {}).get("matchLabels"), case):
        yield "the budget does not mean the pod"
    if spec.get("maxUnavailable") != 1 or spec.get("unhealthyPodEvictionPolicy") != "AlwaysAllow":
        yield "the budget stands in the way of an eviction"


def callers_reach_the_pod(case):
    """The Service means it and its port, and the governing Service is that one."""
    service = only(case.objects, "Service")
    if not selects(service["spec"].get("selector"), case) or {port["targetPort"] for port in service["spec"]["ports"]} != {"grpc"}:
        yield "the Service leads elsewhere"
    if only(case.objects, "StatefulSet")["spec"].get("serviceName") != service["metadata"]["name"]:
        yield "the StatefulSet has another Service"


def work_outlives_the_pod(case):
    """One pod, whose data folder is a claim that stays; the storage root is in it or in a bucket."""
    spec, values = only(case.objects, "StatefulSet")["spec"], settings(case.objects)
    if spec["replicas"] != 1:
        yield "a second pod would be another hone"
    retention = spec.get("persistentVolumeClaimRetentionPolicy", {})
    if set(retention.values()) - {"Retain"}:
        yield "the volume goes with the StatefulSet"
    claims = {one["metadata"]["name"] for one in spec["volumeClaimTemplates"]}
    folders = [mount["mountPath"] for mount in container(case.objects)["volumeMounts"] if mount["name"] in claims]
    if values["HONE_DATA_DIR"] not in folders:
        yield f"{values['HONE_DATA_DIR']} is on no claim"
    root = values.get("HONE_STORAGE_ROOT", "")
    if root and not root.startswith("s3://"):
        yield f"the storage root {root} is neither in the data folder nor in a bucket"
    volume = sum(quantity(one["spec"]["resources"]["requests"]["storage"]) for one in spec["volumeClaimTemplates"])
    if quantity(values.get("HONE_MAX_MODEL_CACHE", 0)) > 0.9 * volume:
        yield "the cache fills the volume"


def the_server_has_room(case):
    """A processor that no trainer computes on, and memory for two previews beside a trainer that takes half."""
    limits, values = container(case.objects)["resources"]["limits"], settings(case.objects)
    if not 1 <= int(values.get("OMP_NUM_THREADS", 0)) <= quantity(limits["cpu"]) - 1:
        yield f"{values.get('OMP_NUM_THREADS')} threads of {limits['cpu']} processors"
    if PREVIEWS * quantity(values["HONE_MAX_PREVIEW_MEMORY"]) > quantity(limits["memory"]) / 2:
        yield "previews take more than half of the memory"


def the_device_is_there(case):
    """A pod that computes on a GPU asks for one, runs the image with CUDA, may go to such a node, and shares memory."""
    spec, one = pod_spec(case.objects), container(case.objects)
    gpus = int(one["resources"]["limits"].get("nvidia.com/gpu", 0))
    on_gpu = settings(case.objects)["HONE_DEVICE"].startswith("cuda")
    if on_gpu != (gpus == 1) or on_gpu != one["image"].endswith("-cuda"):
        yield "device, image and limits do not fit"
    if on_gpu:
        if "nvidia.com/gpu" not in {taint["key"] for taint in spec.get("tolerations", [])} or not spec.get("nodeSelector"):
            yield "it is kept off GPU nodes"
        if "/dev/shm" not in {mount["mountPath"] for mount in one["volumeMounts"]}:
            yield "it has 64 MiB of shared memory"


def known_settings(server):
    """Variables that the server reads by its own help, and those of the sources that it or its trainers read otherwise."""
    text = subprocess.run([server, "--help"], capture_output=True, text=True, check=True).stdout
    sources = "".join(path.read_text() for path in (ROOT / "service").glob("*/src/**/*.rs") if "tests" not in path.parts)
    return set(re.findall(r"\[env: (\w+)=", text)), set(re.findall(r'"((?:HONE|AWS|OMP)_\w+)"', sources)) | {"OMP_NUM_THREADS"}


def settings_are_known(case):
    """No setting is misspelt: a variable that nobody reads is not missed by anybody."""
    of_server, of_sources = known_settings(case.server)
    yield from sorted(set(settings(case.objects)) - of_server - of_sources)


def settings_parse(case):
    """The server's own parser takes the command line and every variable."""
    one = container(case.objects)
    if one["command"] != ["hone-server"]:
        yield f"{one['command']} is not the server"
        return
    variables = {name: value or "from a secret" for name, value in settings(case.objects).items()}
    # The subcommand parses all variables, and the flag of help all arguments, without serving.
    ways = [["token", "check", "--project", "check", "--role", "read"], [*one.get("args", []), "--help"]]
    for way in ways:
        done = subprocess.run([case.server, *way], env=variables, capture_output=True, text=True)
        if done.returncode != 0:
            yield done.stderr.splitlines()[0]


POLICIES = (
    schema_holds,
    images_have_a_version,
    nobody_is_root,
    the_root_is_read_only,
    there_are_no_privileges,
    seccomp_is_on,
    resources_are_bounded,
    probes_ask_the_server,
    grace_covers_the_save,
    references_exist,
    secrets_are_elsewhere,
    secrets_can_be_renewed,
    the_account_may_nothing,
    the_network_is_closed,
    metrics_reach_prometheus,
    a_node_can_be_drained,
    callers_reach_the_pod,
    work_outlives_the_pod,
    the_server_has_room,
    the_device_is_there,
    settings_are_known,
    settings_parse,
)


def broken(case):
    """Policies that a case breaks: name -> what is wrong."""
    found = {policy.__name__: list(policy(case)) for policy in POLICIES}
    return {name: wrong for name, wrong in found.items() if wrong}


def case(overlay, server):
    """An overlay as it is."""
    return Case(manifests.render(overlay), (ROOT / "k8s/README.md").read_text(), server)
