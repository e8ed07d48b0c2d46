package main

import (
	"context"
	"fmt"
	"net"
	"strings"

	"github.com/spf13/pflag"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	cliflag "k8s.io/component-base/cli/flag"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
	"k8s.io/kubernetes/cmd/kube-apiserver/app/options"
)

const serviceAccountIssuer = "https://kubernetes.default.svc.cluster.local"

// disabledAdmissionPlugins would get in the way of tests that play the kubelet:
//   - ServiceAccount refuses Pods until a controller has made the namespace's
//     default account, and adds token volumes nobody mounts.
//   - TaintNodesByCondition marks each new Node as not ready; the controller
//     that would remove the mark again does not run.
var disabledAdmissionPlugins = []string{"ServiceAccount", "TaintNodesByCondition"}

// apiServerSettings is what differs from one kube-apiserver run to another.
type apiServerSettings struct {
	listener     net.Listener
	etcdURL      string
	serviceCIDRs []string
	credentials  *credentials
	moreFlags    []string // After ours, so that they win.
}

// newAPIServerOptions makes kube-apiserver's options from its own command line
// flags, the configuration surface that is kept stable between releases.
func newAPIServerOptions(settings apiServerSettings) (*options.ServerRunOptions, error) {
	address := settings.listener.Addr().(*net.TCPAddr)
	serverOptions := options.NewServerRunOptions()
	flags := mergeFlags("kube-apiserver", serverOptions.Flags())
	if err := flags.Parse(apiServerFlags(settings, address.IP)); err != nil {
		return nil, fmt.Errorf("kube-apiserver flags: %w", err)
	}
	// A ready-made listener reports a port in use at once, and allows port 0.
	serverOptions.SecureServing.Listener = settings.listener
	serverOptions.SecureServing.BindPort = address.Port
	return serverOptions, nil
}

func apiServerFlags(settings apiServerSettings, ip net.IP) []string {
	c := settings.credentials
	ours := []string{
		"--etcd-servers=" + settings.etcdURL,
		// Without an explicit address kube-apiserver looks for that of the
		// default route, which a test's network namespace need not have.
		"--advertise-address=" + ip.String(),
		"--bind-address=" + ip.String(),
		// The kubernetes Service would get endpoints on the API server's
		// address, which tests do not expect to find among theirs.
		"--endpoint-reconciler-type=none",
		"--tls-cert-file=" + c.servingCert,
		"--tls-private-key-file=" + c.servingKey,
		"--token-auth-file=" + c.tokenFile,
		"--authorization-mode=RBAC",
		"--service-account-issuer=" + serviceAccountIssuer,
		"--service-account-key-file=" + c.serviceAccountKey,
		"--service-account-signing-key-file=" + c.serviceAccountKey,
		"--service-cluster-ip-range=" + strings.Join(settings.serviceCIDRs, ","),
		"--disable-admission-plugins=" + strings.Join(disabledAdmissionPlugins, ","),
		"--allow-privileged=true",
		// Load generators are the point of some tests: let them through.
		"--enable-priority-and-fairness=false",
		"--max-requests-inflight=5000",
		"--max-mutating-requests-inflight=5000",
		// Ends watches when stopping; otherwise the server waits a minute for
		// its clients to end them.
		"--shutdown-watch-termination-grace-period=1s",
	}
	return append(ours, settings.moreFlags...)
}

// runAPIServer blocks until ctx ends or kube-apiserver fails.
func runAPIServer(ctx context.Context, serverOptions *options.ServerRunOptions) error {
	completed, err := serverOptions.Complete(ctx)
	if err != nil {
		return fmt.Errorf("completing kube-apiserver options: %w", err)
	}
	if errs := completed.Validate(); len(errs) != 0 {
		return fmt.Errorf("kube-apiserver options: %w", utilerrors.NewAggregate(errs))
	}
	return app.Run(ctx, completed)
}

// mergeFlags makes one flag set of a component's named flag sets.
func mergeFlags(component string, sets cliflag.NamedFlagSets) *pflag.FlagSet {
	merged := pflag.NewFlagSet(component, pflag.ContinueOnError)
	for _, set := range sets.FlagSets {
		merged.AddFlagSet(set)
	}
	return merged
}
