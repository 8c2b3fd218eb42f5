"""Faults put into the rendered manifests, each of which must break exactly the policy that it names."""

from manifests import container, of_kind, only, pod_spec


def put(value, *path):
    """Sets what lies at the end of a path below the object that is given."""

    def change(one):
        for key in path[:-1]:
            one = one[key]
        one[path[-1]] = value

    return change


def drop(*path):
    """Removes it."""

    def change(one):
        for key in path[:-1]:
            one = one[key]
        del one[path[-1]]

    return change


def in_pod(change):
    """A change of the pod's spec."""
    return lambda case: change(pod_spec(case.objects))


def in_container(change):
    """A change of the container."""
    return lambda case: change(container(case.objects))


def in_kind(kind, change):
    """A change of the one object of a kind."""
    return lambda case: change(only(case.objects, kind))


def settings_map(case):
    """The map of the settings."""
    return next(one for one in of_kind(case.objects, "ConfigMap") if "HONE_LISTEN" in one["data"])


def setting(name, value):
    """Another setting."""
    return lambda case: settings_map(case)["data"].update({name: value})


def more(one):
    """Another object."""
    return lambda case: case.objects.append(one)


def in_readme(old, new):
    """Another README."""

    def change(case):
        assert old in case.readme, old
        case.readme = case.readme.replace(old, new)

    return change


def from_bucket_only(case):
    """No egress at all beside a bucket."""
    only(case.objects, "NetworkPolicy")["spec"]["egress"] = []


SECRET = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hone-tokens"}, "stringData": {"tokens": "x"}}
ROLE = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "hone"}, "rules": []}

# policy, overlay, what the fault is, the fault
MUTATIONS = (
    ("schema_holds", "cpu", "a field that nobody knows", in_container(put(True, "readOnlyRoot"))),
    ("schema_holds", "cpu", "a number written as text",
     in_kind("StatefulSet", put("three", "spec", "revisionHistoryLimit"))),
    ("schema_holds", "tls", "a kind that nobody knows",
     more({"apiVersion": "v1", "kind": "Sekret", "metadata": {"name": "x"}})),
    ("images_have_a_version", "cpu", "the newest image", in_container(put("hone:latest", "image"))),
    ("images_have_a_version", "gpu", "another version", in_container(put("hone:0.0.9-cuda", "image"))),
    ("images_have_a_version", "cpu", "no tag", in_container(put("registry.example:5000/hone", "image"))),
    ("nobody_is_root", "cpu", "root is allowed", in_pod(put(False, "securityContext", "runAsNonRoot"))),
    ("nobody_is_root", "cpu", "user 0 in the container", in_container(put(0, "securityContext", "runAsUser"))),
    ("nobody_is_root", "cpu", "volumes of another group", in_pod(put(1, "securityContext", "fsGroup"))),
    ("the_root_is_read_only", "cpu", "it can be written",
     in_container(drop("securityContext", "readOnlyRootFilesystem"))),
    ("there_are_no_privileges", "cpu", "a capability",
     in_container(put(["SYS_PTRACE"], "securityContext", "capabilities", "add"))),
    ("there_are_no_privileges", "cpu", "escalation", in_container(drop("securityContext", "allowPrivilegeEscalation"))),
    ("there_are_no_privileges", "cpu", "the node's network", in_pod(put(True, "hostNetwork"))),
    ("there_are_no_privileges", "cpu", "the node's disk",
     in_pod(lambda pod: pod["volumes"].append({"name": "d", "hostPath": {"path": "/"}}))),
    ("seccomp_is_on", "cpu", "no profile", in_pod(drop("securityContext", "seccompProfile"))),
    ("seccomp_is_on", "cpu", "switched off in the container",
     in_container(put({"type": "Unconfined"}, "securityContext", "seccompProfile"))),
    ("resources_are_bounded", "cpu", "no requests", in_container(drop("resources", "requests"))),
    ("resources_are_bounded", "gpu", "requests below limits", in_container(put("1", "resources", "requests", "cpu"))),
    ("resources_are_bounded", "cpu", "/tmp without end", in_pod(lambda pod: pod["volumes"][-1]["emptyDir"].clear())),
    ("probes_ask_the_server", "cpu", "no liveness probe", in_container(drop("livenessProbe"))),
    ("probes_ask_the_server", "cpu", "another port", in_container(put(7401, "readinessProbe", "grpc", "port"))),
    ("probes_ask_the_server", "cpu", "another port in the settings", setting("HONE_LISTEN", "0.0.0.0:7401")),
    ("probes_ask_the_server", "tls", "plain gRPC to a server with TLS",
     in_container(put({"grpc": {"port": 7400}}, "livenessProbe"))),
    ("probes_ask_the_server", "cpu", "a start of ten seconds",
     in_container(put(5, "startupProbe", "failureThreshold"))),
    ("probes_ask_the_server", "cpu", "a timeout above the period",
     in_container(put(60, "livenessProbe", "timeoutSeconds"))),
    ("grace_covers_the_save", "cpu", "the default of 30 s", in_pod(put(30, "terminationGracePeriodSeconds"))),
    ("grace_covers_the_save", "s3", "longer saves in the settings", setting("HONE_STOP_GRACE", "10m")),
    ("grace_covers_the_save", "cpu", "no preStop", in_container(drop("lifecycle"))),
    ("references_exist", "cpu", "another map",
     in_container(lambda one: one["envFrom"].append({"configMapRef": {"name": "other"}}))),
    ("references_exist", "cpu", "another account", in_pod(put("other", "serviceAccountName"))),
    ("references_exist", "cpu", "a secret that the README does not make", in_readme("hone-tokens", "other")),
    ("references_exist", "s3", "a key that the README does not put in", in_readme("AWS_ACCESS_KEY_ID=", "KEY=")),
    ("references_exist", "tls", "a file that no secret holds",
     setting("HONE_TLS_TRAINER_CA", "/etc/hone/tls/root.crt")),
    ("secrets_are_elsewhere", "cpu", "a secret", more(SECRET)),
    ("secrets_are_elsewhere", "s3", "a key among the settings",
     lambda case: container(case.objects)["env"].append({"name": "AWS_SESSION_TOKEN", "value": "x"})),
    ("secrets_can_be_renewed", "cpu", "a file by itself", in_container(put("tokens", "volumeMounts", 1, "subPath"))),
    ("secrets_can_be_renewed", "tls", "a folder that can be written",
     in_container(drop("volumeMounts", 0, "readOnly"))),
    ("the_account_may_nothing", "cpu", "a role", more(ROLE)),
    ("the_account_may_nothing", "cpu", "a token", in_pod(drop("automountServiceAccountToken"))),
    ("the_account_may_nothing", "cpu", "a token of the account",
     in_kind("ServiceAccount", drop("automountServiceAccountToken"))),
    ("the_account_may_nothing", "cpu", "variables of Services", in_pod(drop("enableServiceLinks"))),
    ("the_network_is_closed", "cpu", "open to everybody", in_kind("NetworkPolicy", drop("spec", "ingress", 0, "from"))),
    ("the_network_is_closed", "cpu", "every port", in_kind("NetworkPolicy", drop("spec", "ingress", 0, "ports"))),
    ("the_network_is_closed", "cpu", "out to everywhere", in_kind("NetworkPolicy", put([{}], "spec", "egress"))),
    ("the_network_is_closed", "cpu", "one way only", in_kind("NetworkPolicy", put(["Ingress"], "spec", "policyTypes"))),
    ("the_network_is_closed", "cpu", "another pod",
     in_kind("NetworkPolicy", put({"app": "x"}, "spec", "podSelector", "matchLabels"))),
    ("the_network_is_closed", "s3", "the metadata service",
     in_kind("NetworkPolicy", drop("spec", "egress", 1, "to", 0, "ipBlock", "except"))),
    ("the_network_is_closed", "s3", "no way to the bucket", from_bucket_only),
    ("the_network_is_closed", "otel", "out to every namespace",
     in_kind("NetworkPolicy", put([{"namespaceSelector": {}}], "spec", "egress", 1, "to"))),
    ("the_network_is_closed", "otel", "another port than the collector's",
     in_kind("NetworkPolicy", put([{"port": 22}], "spec", "egress", 1, "ports"))),
    ("metrics_reach_prometheus", "otel", "another port in the settings", setting("HONE_METRICS_LISTEN", "0.0.0.0:7491")),
    ("metrics_reach_prometheus", "otel", "another port in the monitor",
     in_kind("PodMonitor", put([{"port": "grpc"}], "spec", "podMetricsEndpoints"))),
    ("metrics_reach_prometheus", "otel", "another pod", in_kind("PodMonitor", put({}, "spec", "selector"))),
    ("metrics_reach_prometheus", "otel", "everybody reads",
     in_kind("NetworkPolicy", put([{"namespaceSelector": {}}], "spec", "ingress", 1, "from"))),
    ("metrics_reach_prometheus", "otel", "an alert that nobody explains",
     in_kind("PrometheusRule", put("HoneSings", "spec", "groups", 0, "rules", 0, "alert"))),
    ("metrics_reach_prometheus", "otel", "an alert for nobody",
     in_kind("PrometheusRule", put({}, "spec", "groups", 0, "rules", 0, "labels"))),
    ("metrics_reach_prometheus", "cpu", "a port that nobody listens on",
     in_container(lambda one: one["ports"].append({"name": "metrics", "containerPort": 7490}))),
    ("a_node_can_be_drained", "cpu", "no eviction", in_kind("PodDisruptionBudget", put(0, "spec", "maxUnavailable"))),
    ("a_node_can_be_drained", "cpu", "no pod", in_kind("PodDisruptionBudget", drop("spec", "selector"))),
    ("callers_reach_the_pod", "cpu", "another port", in_kind("Service", put("http", "spec", "ports", 0, "targetPort"))),
    ("callers_reach_the_pod", "cpu", "another pod", in_kind("Service", put({"app": "x"}, "spec", "selector"))),
    ("callers_reach_the_pod", "cpu", "another Service", in_kind("StatefulSet", put("other", "spec", "serviceName"))),
    ("work_outlives_the_pod", "cpu", "two pods", in_kind("StatefulSet", put(2, "spec", "replicas"))),
    ("work_outlives_the_pod", "cpu", "the volume goes",
     in_kind("StatefulSet", put("Delete", "spec", "persistentVolumeClaimRetentionPolicy", "whenDeleted"))),
    ("work_outlives_the_pod", "cpu", "data beside the volume", setting("HONE_DATA_DIR", "/tmp/hone")),
    ("work_outlives_the_pod", "cpu", "storage beside the volume", setting("HONE_STORAGE_ROOT", "file:///tmp/storage")),
    ("work_outlives_the_pod", "s3", "a cache as large as the volume", setting("HONE_MAX_MODEL_CACHE", "200GiB")),
    ("the_server_has_room", "cpu", "a thread for each processor", setting("OMP_NUM_THREADS", "4")),
    ("the_server_has_room", "gpu", "as many threads as the node likes",
     lambda case: of_kind(case.objects, "ConfigMap")[0]["data"].pop("OMP_NUM_THREADS")),
    ("the_server_has_room", "cpu", "large previews", setting("HONE_MAX_PREVIEW_MEMORY", "8GiB")),
    ("the_device_is_there", "gpu", "the image without CUDA", in_container(put("hone:0.1.0-cpu", "image"))),
    ("the_device_is_there", "gpu", "a node without a GPU", in_pod(drop("nodeSelector"))),
    ("the_device_is_there", "gpu", "no toleration", in_pod(drop("tolerations"))),
    ("the_device_is_there", "gpu", "little shared memory",
     in_container(lambda one: one["volumeMounts"].remove({"name": "shm", "mountPath": "/dev/shm"}))),
    ("the_device_is_there", "cpu", "a GPU that was not asked for", setting("HONE_DEVICE", "cuda:0")),
    ("settings_are_known", "cpu", "a misspelt variable", setting("HONE_STOP_GRACES", "120s")),
    ("settings_parse", "cpu", "no duration", setting("HONE_ATTACH_TIMEOUT", "a while")),
    ("settings_parse", "production", "no size", setting("HONE_MAX_DATASET_BYTES", "big")),
    ("settings_parse", "cpu", "a flag that nobody knows", in_container(put(["--no-such-flag"], "args"))),
    ("settings_parse", "cpu", "another program", in_container(put(["sh", "-c", "hone-server"], "command"))),
)
