#!/usr/bin/env bash
# Shows on a cluster what no machine without one can: admission, the image, the kubelet's probes, the volume, the network
# policy, an eviction in mid-training, and that training on another pod ends with the same bytes.
#
#   HONE_TOKEN_FILE=ops.token k8s/smoke.sh k8s/overlays/cpu MODEL ROWS
#
# Wants kubectl with a context that may create pods and namespaces, the secrets of k8s/README.md, `hone` on PATH, and a model
# and rows that train for a minute or more. For an overlay with TLS, set HONE_SERVER=https://127.0.0.1:17400, HONE_CA_FILE
# and HONE_SERVER_NAME too. Leaves hone running, and removes what else it made.
set -euo pipefail
[ $# = 3 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }
overlay=$1 model=$2 rows=$3
export HONE_SERVER=${HONE_SERVER:-http://127.0.0.1:17400}
: "${HONE_TOKEN_FILE:?name the file of an admin token}"
work=$(mktemp -d)
passed=0 failed=0

leave() {
    kill "${forward:-}" 2>/dev/null || true
    kubectl delete namespace hone-smoke --ignore-not-found --wait=false >/dev/null 2>&1 || true
    kubectl -n hone delete pod smoke --ignore-not-found --wait=false >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap leave EXIT

check() { # name, command...
    local name=$1; shift
    if "$@" >"$work/said" 2>&1; then passed=$((passed + 1)); echo "ok     $name"; return; fi
    failed=$((failed + 1)); echo "FAILED $name"; tail -n 5 "$work/said"
}
no() { ! "$@"; }
inside() { kubectl -n hone exec hone-0 -- "$@"; }

forward() { # once the server answers through it, it is there
    kill "${forward:-}" 2>/dev/null || true
    kubectl -n hone port-forward service/hone 17400:7400 >"$work/forward" 2>&1 &
    forward=$!
    until hone info >/dev/null 2>&1; do
        kill -0 "$forward" 2>/dev/null || { cat "$work/forward" >&2; exit 1; }
        sleep 1
    done
}

train() { # job file
    hone train sft --detach --model "$uploaded_model" --train "$uploaded_rows" --seed 7 --job-file "$1" >/dev/null
}

digest() { # job
    hone checkpoints download "$1" --to "$work/$1" >/dev/null && sha256sum <"$work/$1/adapter_model.safetensors"
}

evict() { # as `kubectl drain` does, by the API that asks the disruption budget
    echo '{"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "hone-0", "namespace": "hone"}}' |
        kubectl create --raw /api/v1/namespaces/hone/pods/hone-0/eviction -f -
}

reaches() { # namespace: whether a pod in it gets a connection to the server
    local image settings
    image=$(kubectl -n hone get pod hone-0 -o 'jsonpath={.spec.containers[0].image}')
    settings='{"spec": {"automountServiceAccountToken": false,
        "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "smoke", "image": "'$image'",
            "command": ["sh", "-c", "curl -s --connect-timeout 5 --max-time 6 -w %{time_connect} telnet://hone.hone.svc:7400 </dev/null | tee /dev/stderr | grep -q \"[1-9]\""],
            "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]}}'
    kubectl -n "$1" run smoke --image "$image" --restart Never --overrides "$settings"
    for _ in $(seq 120); do
        case $(kubectl -n "$1" get pod smoke -o 'jsonpath={.status.phase}') in
            Succeeded) return 0 ;;
            Failed) kubectl -n "$1" logs smoke; return 1 ;;
        esac
        sleep 1
    done
    echo "the pod did not end"
    exit 1
}

check "the cluster admits every object" kubectl apply --dry-run=server -k "$overlay"
kubectl apply -k "$overlay" >/dev/null
check "the pod becomes ready" kubectl -n hone rollout status statefulset/hone --timeout 15m
check "it runs without rights" inside sh -c '[ "$(id -u)" = 65532 ] && grep -q "CapEff:.0000000000000000" /proc/1/status'
check "the runtime's seccomp profile is on" inside grep "Seccomp:.2" /proc/1/status
check "its root is read-only" no inside touch /opt/hone/x
check "it has no token of the cluster" no inside ls /var/run/secrets/kubernetes.io/serviceaccount/token
check "the trainer finds its device" inside sh -c 'hone-trainer doctor --quick; hone-trainer doctor --quick --json | grep -q "\"name\": *\"${HONE_DEVICE}\""'
check "the node's metadata service is out of reach" no inside curl --silent --max-time 5 http://169.254.169.254/

forward
uploaded_model=$(hone model upload --reuse "$model")
uploaded_rows=$(hone data upload --reuse "$rows")
train "$work/unbroken"
check "a job runs to its end" hone jobs wait "$(cat "$work/unbroken")"

train "$work/evicted"
job=$(cat "$work/evicted")
hone --json jobs watch "$job" | grep -m 1 '"train_step"' >/dev/null || true
check "the pod may be evicted" evict
check "it is gone within its grace period" kubectl -n hone wait pod/hone-0 --for delete --timeout 5m
check "another pod takes the volume and becomes ready" kubectl -n hone rollout status statefulset/hone --timeout 15m
forward
check "the evicted job goes on and ends" hone jobs wait "$job"
hone --json jobs watch "$job" >"$work/events"
check "what ended its first attempt was the drain" grep -q FAILURE_REASON_PREEMPTED "$work/events"
check "and nothing else" no grep -q FAILURE_REASON_TRAINER_CRASHED "$work/events"
check "it ends with the bytes of the unbroken one" test "$(digest "$job")" = "$(digest "$(cat "$work/unbroken")")"

kubectl create namespace hone-smoke >/dev/null
check "a pod of its own namespace reaches it" reaches hone
check "a pod of another namespace does not" no reaches hone-smoke
echo "smoke: $passed passed, $failed failed"
[ "$failed" = 0 ]
