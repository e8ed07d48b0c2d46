// Command controlplane runs a real Kubernetes control plane for tests: an
// embedded etcd, kube-apiserver and kube-controller-manager in one process,
// with no container runtime, no kubelet and no access to other machines. Its
// other subcommands prepare that control plane for a test: they apply
// manifests, make kubeconfigs for restricted accounts and load Services.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"
)

func main() {
	os.Exit(run())
}

func run() int {
	defer klog.Flush()

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()

	if err := newRootCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "controlplane: %v\n", err)
		return 1
	}
	return 0
}

func newRootCommand() *cobra.Command {
	verbosity := 0
	root := &cobra.Command{
		Use:   "controlplane",
		Short: "A real Kubernetes control plane for tests, in one process",
		// main prints errors; usage after a run-time failure hides the cause.
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		PersistentPreRunE: func(*cobra.Command, []string) error {
			return configureLogging(verbosity)
		},
	}
	root.PersistentFlags().IntVarP(&verbosity, "v", "v", 0,
		"log verbosity on stderr: 0 is errors only, higher numbers are klog levels")
	root.AddCommand(
		newServeCommand(),
		newLoadCommand(),
		newServiceAccountCommand(),
		newApplyCommand(),
		newReplaceCommand(),
	)
	return root
}

// printJSONLine writes one JSON document on one line of stdout. Harnesses
// parse stdout, so nothing else may be written there.
func printJSONLine(document any) error {
	line, err := json.Marshal(document)
	if err != nil {
		return fmt.Errorf("encoding result: %w", err)
	}
	if _, err := fmt.Fprintln(os.Stdout, string(line)); err != nil {
		return fmt.Errorf("writing result to stdout: %w", err)
	}
	return nil
}
