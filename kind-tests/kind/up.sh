#!/bin/sh
# Makes a kind cluster without kube-proxy, puts shunt in its place, and sees that Services work.
#
# Usage: up.sh [CLUSTER]        (default: shunt; `kind delete cluster --name CLUSTER` takes it away)
#
# Needs docker, kind and kubectl; and Rust, unless BINARY names a static shunt.
set -eu

cluster=${1:-shunt}
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
image=shunt:0.1.0
for program in docker kind kubectl; do
	command -v "$program" >/dev/null || { echo "up: $program is missing" >&2; exit 1; }
done
kubectl() { command kubectl --context "kind-$cluster" "$@"; }

# The image, by the same recipe as `make image`.
if [ -z "${BINARY:-}" ]; then
	make -C "$root" build
	host=$(rustc -vV | sed -n 's/^host: //p')
	BINARY="$root/target/$host/release/shunt"
fi
docker build -t "$image" -f "$root/manifests/Containerfile" "$(dirname "$BINARY")"

kind get clusters | grep -qx "$cluster" ||
	kind create cluster --name "$cluster" --config "$here/cluster.yaml"
kind load docker-image --name "$cluster" "$image"

# Nobody serves the API server's ClusterIP yet: shunt goes to the server itself.
address=$(docker inspect -f '{{.NetworkSettings.Networks.kind.IPAddress}}' "$cluster-control-plane")
kubectl -n kube-system create configmap shunt-api-server --dry-run=client -o yaml \
	--from-literal=host="$address" --from-literal=port=6443 | kubectl apply -f -
kubectl kustomize --load-restrictor LoadRestrictionsNone "$here" | kubectl apply -f -
kubectl -n kube-system rollout status daemonset/shunt --timeout 180s

exec "$here/smoke.sh" "$cluster"
