#!/bin/sh
# Sees that Services work in a kind cluster: by name, by ClusterIP of both families, by node port.
#
# Usage: smoke.sh [CLUSTER]
set -eu

cluster=${1:-shunt}
here=$(cd "$(dirname "$0")" && pwd)
kubectl() { command kubectl --context "kind-$cluster" "$@"; }

# ask WHAT HOST: fails unless both web servers answer within 40 questions of the client.
ask() {
	answers=$(for _ in $(seq 40); do
		kubectl -n smoke exec client -- curl -sS --max-time 5 "http://$2/hostname" || echo failed
		echo
	done | sort -u | grep .)
	if [ "$(echo "$answers" | wc -l)" != 2 ] || echo "$answers" | grep -q failed; then
		echo "FAILED: $1, http://$2: $answers" >&2
		exit 1
	fi
	echo "ok: $1, http://$2"
}

if kubectl -n kube-system get daemonset kube-proxy >/dev/null 2>&1; then
	echo "FAILED: there is a kube-proxy" >&2
	exit 1
fi
kubectl apply -f "$here/smoke.yaml"
kubectl -n smoke rollout status deployment/web --timeout 180s
kubectl -n smoke wait --for condition=Ready pod/client --timeout 180s
ask "by name" web.smoke.svc.cluster.local
for ip in $(kubectl -n smoke get service web -o 'jsonpath={.spec.clusterIPs[*]}'); do
	case "$ip" in
	*:*) ask "ClusterIP" "[$ip]" ;;
	*) ask "ClusterIP" "$ip" ;;
	esac
done
for ip in $(kubectl get nodes -o 'jsonpath={.items[*].status.addresses[?(@.type=="InternalIP")].address}'); do
	case "$ip" in
	*:*) ask "node port" "[$ip]:30080" ;;
	*) ask "node port" "$ip:30080" ;;
	esac
done
for pod in $(kubectl -n kube-system get pods -l app.kubernetes.io/name=shunt -o name); do
	kubectl -n kube-system exec "$pod" -- /shunt status | sed -n 1,4p
done
echo "all of it works"
