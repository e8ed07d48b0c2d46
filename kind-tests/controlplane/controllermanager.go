package main

import (
	"context"
	"fmt"
	"strings"

	"k8s.io/kubernetes/cmd/kube-controller-manager/app"
	"k8s.io/kubernetes/cmd/kube-controller-manager/app/options"
	"k8s.io/kubernetes/cmd/kube-controller-manager/names"
)

// defaultControllers are those that tests of a service proxy need: the rest
// would act on Nodes and Pods that no kubelet stands behind.
//
// The garbage collector is among them because it, and not the EndpointSlice
// controller, deletes the EndpointSlices of a deleted Service.
var defaultControllers = []string{
	names.EndpointSliceController,
	names.GarbageCollectorController,
	names.NamespaceController,
	names.ServiceAccountController,
}

func newControllerManagerOptions(kubeconfig string, controllers []string) (*options.KubeControllerManagerOptions, error) {
	managerOptions, err := options.NewKubeControllerManagerOptions()
	if err != nil {
		return nil, fmt.Errorf("kube-controller-manager options: %w", err)
	}
	sets := managerOptions.Flags(app.KnownControllers(), app.ControllersDisabledByDefault(), app.ControllerAliases())
	flags := mergeFlags("kube-controller-manager", sets)
	if err := flags.Parse(controllerManagerFlags(kubeconfig, controllers)); err != nil {
		return nil, fmt.Errorf("kube-controller-manager flags: %w", err)
	}
	return managerOptions, nil
}

func controllerManagerFlags(kubeconfig string, controllers []string) []string {
	return []string{
		"--kubeconfig=" + kubeconfig,
		"--controllers=" + strings.Join(controllers, ","),
		// The only instance needs no election, and nobody reads its port.
		"--leader-elect=false",
		"--secure-port=0",
		"--allocate-node-cidrs=false",
		// Tests measure the proxy: the controllers in front of it must not be
		// what limits the rate of changes.
		"--concurrent-service-endpoint-syncs=20",
		"--kube-api-qps=2000",
		"--kube-api-burst=4000",
		"--controller-shutdown-timeout=2s",
	}
}

// validateControllerManagerOptions reports a mistaken --controllers before any
// other component has to start. Feature gates must have been set.
func validateControllerManagerOptions(managerOptions *options.KubeControllerManagerOptions) error {
	err := managerOptions.Validate(app.KnownControllers(), app.ControllersDisabledByDefault(), app.ControllerAliases())
	if err != nil {
		return fmt.Errorf("kube-controller-manager options: %w", err)
	}
	return nil
}

// runControllerManager blocks until ctx ends or kube-controller-manager fails.
func runControllerManager(ctx context.Context, managerOptions *options.KubeControllerManagerOptions) error {
	config, err := managerOptions.Config(ctx, app.KnownControllers(), app.ControllersDisabledByDefault(), app.ControllerAliases())
	if err != nil {
		return fmt.Errorf("kube-controller-manager options: %w", err)
	}
	return app.Run(ctx, config.Complete())
}
