#!/bin/sh
exec "$(dirname "$0")/go-tool.sh" sigs.k8s.io/kustomize/kustomize/v5 v5.7.1 "$@"
