package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/util/compatibility"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	apiserveroptions "k8s.io/kubernetes/cmd/kube-apiserver/app/options"
	manageroptions "k8s.io/kubernetes/cmd/kube-controller-manager/app/options"
)

const (
	readyTimeout = 2 * time.Minute
	pollInterval = 50 * time.Millisecond
	// stopTimeout bounds the graceful end of each component. State is for
	// tests only: past it, ending in time matters more than ending in order.
	stopTimeout = 5 * time.Second

	// defaultServiceAccount is what the controller makes in each namespace.
	defaultServiceAccount = "default"
)

// controlPlane is the set of running components.
type controlPlane struct {
	result     serveResult
	fail       context.CancelCauseFunc // Called when a component ends unasked.
	components []*component            // In order of starting.
}

// component is a part of the control plane running in its own goroutine.
type component struct {
	name   string
	cancel context.CancelFunc
	done   chan struct{}
}

// startControlPlane starts all components and waits until they are ready.
// Components that fail later report so by fail.
func startControlPlane(ctx context.Context, fail context.CancelCauseFunc, options serveOptions) (*controlPlane, error) {
	listener, err := options.listen()
	if err != nil {
		return nil, err
	}
	dir, err := options.absoluteDir()
	if err != nil {
		return nil, err
	}
	addresses, err := options.certificateAddresses()
	if err != nil {
		return nil, err
	}
	credentials, err := ensureCredentials(dir, addresses)
	if err != nil {
		return nil, fmt.Errorf("making credentials in %s: %w", dir, err)
	}
	plane := &controlPlane{fail: fail, result: serveResult{
		Server:     "https://" + listener.Addr().String(),
		Kubeconfig: filepath.Join(dir, "admin.kubeconfig"),
		CA:         credentials.caCert,
	}}
	if err := plane.writeAdminKubeconfig(credentials); err != nil {
		return nil, err
	}
	settings := apiServerSettings{
		listener:     listener,
		serviceCIDRs: options.serviceCIDRs,
		credentials:  credentials,
		moreFlags:    options.apiServerFlags,
	}
	if err := plane.startComponents(ctx, dir, settings, options.controllers); err != nil {
		plane.stop()
		return nil, err
	}
	return plane, nil
}

func (p *controlPlane) startComponents(ctx context.Context, dir string, settings apiServerSettings, controllers []string) error {
	etcd, err := startEtcd(ctx, dir, etcdLogLevel())
	if err != nil {
		return err
	}
	p.run("etcd", etcd.run)

	settings.etcdURL = etcd.clientURL
	serverOptions, managerOptions, err := p.componentOptions(settings, controllers)
	if err != nil {
		return err
	}
	p.run("kube-apiserver", func(ctx context.Context) error { return runAPIServer(ctx, serverOptions) })
	client, err := p.adminClient()
	if err != nil {
		return err
	}
	if err := waitForServer(ctx, client); err != nil {
		return err
	}
	p.run("kube-controller-manager", func(ctx context.Context) error { return runControllerManager(ctx, managerOptions) })
	return waitForDefaults(ctx, client)
}

// componentOptions prepares the Kubernetes components together, for they share
// state of the process.
func (p *controlPlane) componentOptions(settings apiServerSettings, controllers []string) (*apiserveroptions.ServerRunOptions, *manageroptions.KubeControllerManagerOptions, error) {
	serverOptions, err := newAPIServerOptions(settings)
	if err != nil {
		return nil, nil, err
	}
	managerOptions, err := newControllerManagerOptions(p.result.Kubeconfig, controllers)
	if err != nil {
		return nil, nil, err
	}
	// Feature gates are set once, after both components have defined theirs
	// and before either of them reads one.
	if err := compatibility.DefaultComponentGlobalsRegistry.Set(); err != nil {
		return nil, nil, fmt.Errorf("setting feature gates: %w", err)
	}
	if err := validateControllerManagerOptions(managerOptions); err != nil {
		return nil, nil, err
	}
	// As the components' own commands do: warnings of deprecated APIs are meant
	// for people, and the components have to use some of them.
	rest.SetDefaultWarningHandler(rest.NoWarnings{})
	return serverOptions, managerOptions, nil
}

func waitForServer(ctx context.Context, client kubernetes.Interface) error {
	return waitFor(ctx, "kube-apiserver to be ready", func(ctx context.Context) error {
		return client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	})
}

// waitForDefaults waits for the objects that exist in every cluster. The
// default ServiceAccount is made by a controller, so they run by then.
func waitForDefaults(ctx context.Context, client kubernetes.Interface) error {
	if err := waitFor(ctx, "the default namespace", func(ctx context.Context) error {
		_, err := client.CoreV1().Namespaces().Get(ctx, metav1.NamespaceDefault, metav1.GetOptions{})
		return err
	}); err != nil {
		return err
	}
	return waitFor(ctx, "the default ServiceAccount", func(ctx context.Context) error {
		_, err := client.CoreV1().ServiceAccounts(metav1.NamespaceDefault).Get(ctx, defaultServiceAccount, metav1.GetOptions{})
		return err
	})
}

func (p *controlPlane) writeAdminKubeconfig(credentials *credentials) error {
	caData, err := os.ReadFile(credentials.caCert)
	if err != nil {
		return err
	}
	return writeTokenKubeconfig(p.result.Kubeconfig, p.result.Server, caData, "admin", credentials.adminToken)
}

func (p *controlPlane) adminClient() (kubernetes.Interface, error) {
	config, err := protobufClientConfig(p.result.Kubeconfig)
	if err != nil {
		return nil, err
	}
	config.Timeout = 5 * time.Second
	return kubernetes.NewForConfig(config)
}

// run starts a component. Its context is its own: stop ends components one by
// one, so that each can still reach those it depends on.
func (p *controlPlane) run(name string, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	c := &component{name: name, cancel: cancel, done: make(chan struct{})}
	p.components = append(p.components, c)
	go func() {
		defer close(c.done)
		err := run(ctx)
		if ctx.Err() != nil {
			return // Asked to end.
		}
		if err == nil {
			err = errors.New("unexpected end")
		}
		p.fail(fmt.Errorf("%s: %w", name, err))
	}()
}

// stop ends the components in the reverse order of their start.
func (p *controlPlane) stop() {
	for i := len(p.components) - 1; i >= 0; i-- {
		p.components[i].stop()
	}
}

func (c *component) stop() {
	c.cancel()
	select {
	case <-c.done:
	case <-time.After(stopTimeout):
		klog.Errorf("%s did not end within %s, going on without", c.name, stopTimeout)
	}
}

// waitFor polls a check until it succeeds, and reports its last error if it
// does not do so in time.
func waitFor(ctx context.Context, what string, check func(context.Context) error) error {
	var last error
	err := wait.PollUntilContextTimeout(ctx, pollInterval, readyTimeout, true, func(ctx context.Context) (bool, error) {
		last = check(ctx)
		return last == nil, nil
	})
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("waiting for %s: %w", what, context.Cause(ctx))
	default:
		return fmt.Errorf("waited %s for %s: %w", readyTimeout, what, last)
	}
}
