#!/bin/sh
exec "$(dirname "$0")/go-tool.sh" helm.sh/helm/v3/cmd/helm v3.19.5 "$@"
