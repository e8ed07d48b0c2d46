package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"

	"google.golang.org/grpc/grpclog"
	"k8s.io/klog/v2"
)

// configureLogging sets up klog, which all Kubernetes components share. The
// components log well over a hundred harmless lines and warnings while starting
// even at level 0, so at level 0 only errors are let through: klog sends
// everything to a discarding writer, and copies to stderr what is at or above
// the threshold.
func configureLogging(verbosity int) error {
	threshold := "ERROR"
	if verbosity > 0 {
		threshold = "INFO"
	}

	flags := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(flags)
	settings := []struct{ name, value string }{
		{"v", strconv.Itoa(verbosity)},
		{"logtostderr", "false"},
		{"stderrthreshold", threshold},
	}
	for _, setting := range settings {
		if err := flags.Set(setting.name, setting.value); err != nil {
			return fmt.Errorf("configuring log flag %s: %w", setting.name, err)
		}
	}
	klog.SetOutput(io.Discard)

	if verbosity == 0 {
		// kube-apiserver makes short-lived connections to etcd while starting,
		// and gRPC warns of each of them.
		grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, os.Stderr))
	}
	return nil
}
