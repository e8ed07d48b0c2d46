package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"
)

// errStdinClosed is the reason for stopping given by --exit-on-stdin-eof.
var errStdinClosed = errors.New("stdin reached its end")

type serveOptions struct {
	dir            string
	address        string
	port           int
	serviceCIDRs   []string
	controllers    []string
	apiServerFlags []string
	exitOnStdinEOF bool
	dieWithParent  bool
}

// serveResult is what serve prints once the control plane is ready.
type serveResult struct {
	Server     string `json:"server"`
	Kubeconfig string `json:"kubeconfig"`
	CA         string `json:"ca"`
}

func newServeCommand() *cobra.Command {
	options := serveOptions{
		port:         6443,
		serviceCIDRs: []string{"10.96.0.0/12", "fd00:10:96::/112"},
		controllers:  defaultControllers,
	}
	command := &cobra.Command{
		Use:   "serve --dir DIR --address IP",
		Short: "Run etcd, kube-apiserver and kube-controller-manager until stopped",
		Long: `Runs etcd, kube-apiserver and kube-controller-manager in this process until
SIGTERM or SIGINT. When all are ready, prints one line of JSON on stdout with
the server's URL, an administrator's kubeconfig and the CA certificate.

State is kept in DIR; started again with the same DIR, the control plane
continues where it ended, and kubeconfigs made before stay valid.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			return serve(command.Context(), options)
		},
	}
	flags := command.Flags()
	flags.StringVar(&options.dir, "dir", "", "directory for state, credentials and sockets, made if missing (required)")
	flags.StringVar(&options.address, "address", "", "IP address to serve on, one of this machine's (required)")
	flags.IntVar(&options.port, "port", options.port, "port to serve on, 0 for any free one")
	flags.StringSliceVar(&options.serviceCIDRs, "service-cidrs", options.serviceCIDRs, "one IP range for Services, or two of different families")
	flags.StringSliceVar(&options.controllers, "controllers", options.controllers, "controllers to run, as for kube-controller-manager")
	flags.StringArrayVar(&options.apiServerFlags, "apiserver-flag", nil, "one more flag for kube-apiserver, as --NAME=VALUE; repeatable")
	flags.BoolVar(&options.exitOnStdinEOF, "exit-on-stdin-eof", false, "stop when stdin reaches its end")
	flags.BoolVar(&options.dieWithParent, "die-with-parent", false, "be killed when the parent process ends")
	markRequired(command, "dir", "address")
	return command
}

func serve(signals context.Context, options serveOptions) error {
	if options.dieWithParent {
		if err := dieWithParent(); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancelCause(signals)
	defer cancel(nil)
	if options.exitOnStdinEOF {
		cancelOnEOF(os.Stdin, cancel)
	}

	err := runUntilDone(ctx, cancel, options)
	if signals.Err() != nil || errors.Is(context.Cause(ctx), errStdinClosed) {
		return nil // Stopped on request, be it while starting.
	}
	return err
}

func runUntilDone(ctx context.Context, fail context.CancelCauseFunc, options serveOptions) error {
	plane, err := startControlPlane(ctx, fail, options)
	if err != nil {
		return err
	}
	defer plane.stop()
	if err := printJSONLine(plane.result); err != nil {
		return err
	}
	<-ctx.Done()
	return context.Cause(ctx)
}

// listen binds the API server's port, first of all: a mistaken address then
// fails at once and by name.
func (o serveOptions) listen() (net.Listener, error) {
	ip := net.ParseIP(o.address)
	if ip == nil || ip.IsUnspecified() {
		return nil, fmt.Errorf("--address %q is not the IP address of an interface", o.address)
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(ip.String(), strconv.Itoa(o.port)))
	if err != nil {
		return nil, fmt.Errorf("listening for kube-apiserver: %w", err)
	}
	return listener, nil
}

// certificateAddresses are those that clients may reach the API server by: its
// own, loopback, and the first of each Service range, the kubernetes Service's.
func (o serveOptions) certificateAddresses() ([]net.IP, error) {
	addresses := []net.IP{net.ParseIP(o.address), net.IPv4(127, 0, 0, 1)}
	for _, cidr := range o.serviceCIDRs {
		ip, network, err := net.ParseCIDR(cidr)
		if err != nil {
			return nil, fmt.Errorf("--service-cidrs: %w", err)
		}
		if !ip.Equal(network.IP) {
			return nil, fmt.Errorf("--service-cidrs: %s has host bits set, use %s", cidr, network)
		}
		first := append(net.IP(nil), network.IP...)
		first[len(first)-1]++
		addresses = append(addresses, first)
	}
	return addresses, nil
}

// absoluteDir makes the state directory. Its path has to be absolute for the
// sockets' URLs, and because callers may run elsewhere.
func (o serveOptions) absoluteDir() (string, error) {
	dir, err := filepath.Abs(o.dir)
	if err != nil {
		return "", err
	}
	return dir, os.MkdirAll(dir, 0o755)
}

func markRequired(command *cobra.Command, names ...string) {
	for _, name := range names {
		if err := command.MarkFlagRequired(name); err != nil {
			panic(err) // A flag of that name is not defined: a bug here.
		}
	}
}
