package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"
)

const (
	servicePort  = 80
	endpointPort = 8080
	portName     = "http"

	// maxEndpointsPerSlice is the API's limit. The EndpointSlice controller
	// keeps to 100 unless told otherwise, and so does load.
	maxEndpointsPerSlice     = 1000
	defaultEndpointsPerSlice = 100

	// endpointAddresses is how many addresses the endpoint space has.
	endpointAddresses = 1 << 23
)

// endpointBase is the start of the endpoint space, 10.128.0.0/9. It overlaps
// neither the default Service range nor ranges customary for test links.
var endpointBase = netip.MustParseAddr("10.128.0.0")

type loadOptions struct {
	kubeconfig        string
	services          int
	endpoints         int
	clients           int
	namespace         string
	prefix            string
	start             int
	nodeNames         []string
	nodePortEvery     int
	endpointsPerSlice int
}

// loadResult is what load prints when done.
type loadResult struct {
	Services       int     `json:"services"`
	NodePorts      int     `json:"nodePorts"`
	EndpointSlices int     `json:"endpointSlices"`
	Endpoints      int     `json:"endpoints"`
	Seconds        float64 `json:"seconds"`
}

func newLoadCommand() *cobra.Command {
	options := loadOptions{
		clients: 32, namespace: "load", prefix: "svc",
		nodePortEvery: 10, endpointsPerSlice: defaultEndpointsPerSlice,
	}
	command := &cobra.Command{
		Use:   "load --kubeconfig FILE --services N --endpoints M",
		Short: "Create many Services with EndpointSlices, as fast as the server takes them",
		Args:  cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			return load(command.Context(), options)
		},
	}
	flags := command.Flags()
	flags.StringVar(&options.kubeconfig, "kubeconfig", "", "kubeconfig of an administrator (required)")
	flags.IntVar(&options.services, "services", 0, "number of Services (required)")
	flags.IntVar(&options.endpoints, "endpoints", 0, "number of ready endpoints of each Service (required)")
	flags.IntVar(&options.clients, "clients", options.clients, "number of concurrent requests")
	flags.StringVar(&options.namespace, "namespace", options.namespace, "namespace for the objects, made if missing")
	flags.StringVar(&options.prefix, "prefix", options.prefix, "start of the Services' names, before -INDEX")
	flags.IntVar(&options.start, "start", 0, "index of the first Service: names and endpoint addresses follow from the index")
	flags.StringSliceVar(&options.nodeNames, "node-names", nil, "Nodes the endpoints are on, in turn")
	flags.IntVar(&options.nodePortEvery, "node-port-every", options.nodePortEvery, "make each such Service of type NodePort, 0 for none")
	flags.IntVar(&options.endpointsPerSlice, "endpoints-per-slice", options.endpointsPerSlice, "endpoints in one EndpointSlice at most")
	markRequired(command, "kubeconfig", "services", "endpoints")
	return command
}

func (o loadOptions) validate() error {
	switch {
	case o.services < 1:
		return errors.New("--services must be at least 1")
	case o.endpoints < 0 || o.start < 0 || o.nodePortEvery < 0:
		return errors.New("--endpoints, --start and --node-port-every must not be negative")
	case o.clients < 1:
		return errors.New("--clients must be at least 1")
	case o.endpointsPerSlice < 1 || o.endpointsPerSlice > maxEndpointsPerSlice:
		return fmt.Errorf("--endpoints-per-slice must be from 1 to %d", maxEndpointsPerSlice)
	case o.start+o.services > endpointAddresses || (o.start+o.services)*o.endpoints >= endpointAddresses:
		return fmt.Errorf("there are only %d endpoint addresses, fewer than the last endpoint's index", endpointAddresses-1)
	}
	return nil
}

func load(ctx context.Context, options loadOptions) error {
	if err := options.validate(); err != nil {
		return err
	}
	config, err := protobufClientConfig(options.kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	started := time.Now()
	if err := ensureNamespace(ctx, client, options.namespace); err != nil {
		return fmt.Errorf("creating namespace %s: %w", options.namespace, err)
	}
	if err := createServices(ctx, client, options); err != nil {
		return err
	}
	return printJSONLine(options.result(time.Since(started)))
}

func createServices(ctx context.Context, client kubernetes.Interface, options loadOptions) error {
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(options.clients)
	for index := options.start; index < options.start+options.services && groupCtx.Err() == nil; index++ {
		group.Go(func() error {
			return createService(groupCtx, client, options, index)
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return context.Cause(ctx) // Interrupted between two Services.
}

func createService(ctx context.Context, client kubernetes.Interface, options loadOptions, index int) error {
	service := options.service(index)
	if _, err := client.CoreV1().Services(options.namespace).Create(ctx, service, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("creating Service %s: %w", service.Name, err)
	}
	for _, slice := range options.endpointSlices(index) {
		if _, err := client.DiscoveryV1().EndpointSlices(options.namespace).Create(ctx, slice, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("creating EndpointSlice %s: %w", slice.Name, err)
		}
	}
	return nil
}

func ensureNamespace(ctx context.Context, client kubernetes.Interface, name string) error {
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	_, err := client.CoreV1().Namespaces().Create(ctx, namespace, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

func (o loadOptions) serviceName(index int) string {
	return fmt.Sprintf("%s-%d", o.prefix, index)
}

func (o loadOptions) isNodePort(index int) bool {
	return o.nodePortEvery > 0 && index%o.nodePortEvery == 0
}

// service has no selector: the EndpointSlice controller leaves it alone.
func (o loadOptions) service(index int) *corev1.Service {
	serviceType := corev1.ServiceTypeClusterIP
	if o.isNodePort(index) {
		serviceType = corev1.ServiceTypeNodePort
	}
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: o.serviceName(index), Namespace: o.namespace},
		Spec: corev1.ServiceSpec{
			Type:  serviceType,
			Ports: []corev1.ServicePort{{Name: portName, Port: servicePort, Protocol: corev1.ProtocolTCP}},
		},
	}
}

func (o loadOptions) endpointSlices(index int) []*discoveryv1.EndpointSlice {
	var slices []*discoveryv1.EndpointSlice
	for from := 0; from < o.endpoints; from += o.endpointsPerSlice {
		to := min(from+o.endpointsPerSlice, o.endpoints)
		slices = append(slices, o.endpointSlice(index, len(slices), from, to))
	}
	return slices
}

// endpointSlice holds the endpoints from and up to, without, to.
func (o loadOptions) endpointSlice(index, number, from, to int) *discoveryv1.EndpointSlice {
	service := o.serviceName(index)
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Name:      fmt.Sprintf("%s-%d", service, number),
			Namespace: o.namespace,
			Labels: map[string]string{
				discoveryv1.LabelServiceName: service,
				discoveryv1.LabelManagedBy:   "load",
			},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{{
			Name: ptr.To(portName), Port: ptr.To[int32](endpointPort), Protocol: ptr.To(corev1.ProtocolTCP),
		}},
	}
	for i := from; i < to; i++ {
		slice.Endpoints = append(slice.Endpoints, o.endpoint(index*o.endpoints+i))
	}
	return slice
}

func (o loadOptions) endpoint(ordinal int) discoveryv1.Endpoint {
	endpoint := discoveryv1.Endpoint{
		Addresses: []string{endpointAddress(ordinal)},
		Conditions: discoveryv1.EndpointConditions{
			Ready: ptr.To(true), Serving: ptr.To(true), Terminating: ptr.To(false),
		},
	}
	if len(o.nodeNames) > 0 {
		endpoint.NodeName = ptr.To(o.nodeNames[ordinal%len(o.nodeNames)])
	}
	return endpoint
}

// endpointAddress gives each ordinal its own address, the network's skipped.
func endpointAddress(ordinal int) string {
	bytes := endpointBase.As4()
	offset := uint32(ordinal) + 1
	bytes[1] += byte(offset >> 16)
	bytes[2] = byte(offset >> 8)
	bytes[3] = byte(offset)
	return netip.AddrFrom4(bytes).String()
}

func (o loadOptions) result(elapsed time.Duration) loadResult {
	result := loadResult{
		Services:       o.services,
		EndpointSlices: o.services * ((o.endpoints + o.endpointsPerSlice - 1) / o.endpointsPerSlice),
		Endpoints:      o.services * o.endpoints,
		Seconds:        elapsed.Round(time.Millisecond).Seconds(),
	}
	for index := o.start; index < o.start+o.services; index++ {
		if o.isNodePort(index) {
			result.NodePorts++
		}
	}
	return result
}
