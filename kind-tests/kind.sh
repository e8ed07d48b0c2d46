#!/bin/sh
exec "$(dirname "$0")/go-tool.sh" sigs.k8s.io/kind v0.30.0 "$@"
