package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"
)

const (
	fieldManager = "shunt-controlplane"
	// newKindTimeout is how long a kind may take to be served after the
	// CustomResourceDefinition that defines it was applied.
	newKindTimeout = 10 * time.Second
)

type applyOptions struct {
	kubeconfig string
	namespace  string
	dryRun     bool
}

func newApplyCommand() *cobra.Command {
	options := applyOptions{namespace: metav1.NamespaceDefault}
	command := &cobra.Command{
		Use:   "apply --kubeconfig FILE MANIFEST...",
		Short: "Apply manifests on the server's side, strictly validated",
		Long: `Applies YAML or JSON manifests, of any number of documents and of any kind, in
the order given ("-" is stdin). Unknown and duplicate fields are errors. All
objects are tried, and each failure is reported.

With --dry-run the server validates and admits the objects without storing them.
Objects in a Namespace that is among the manifests but does not exist yet are
then validated as if in the default namespace.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(command *cobra.Command, files []string) error {
			return applyFiles(command.Context(), options, files)
		},
	}
	flags := command.Flags()
	flags.StringVar(&options.kubeconfig, "kubeconfig", "", "kubeconfig of an administrator (required)")
	flags.StringVar(&options.namespace, "namespace", options.namespace, "namespace for objects that name none")
	flags.BoolVar(&options.dryRun, "dry-run", false, "validate on the server, without storing")
	markRequired(command, "kubeconfig")
	return command
}

// manifestObject is an object and where it was read from, for error messages.
type manifestObject struct {
	*unstructured.Unstructured
	source string
}

func (o manifestObject) String() string {
	name := o.GetName()
	if namespace := o.GetNamespace(); namespace != "" {
		name = namespace + "/" + name
	}
	return fmt.Sprintf("%s: %s %s", o.source, o.GetKind(), name)
}

func applyFiles(ctx context.Context, options applyOptions, files []string) error {
	// All is read before anything is applied: a malformed file changes nothing.
	objects, err := readManifests(files)
	if err != nil {
		return err
	}
	applier, err := newApplier(options, objects)
	if err != nil {
		return err
	}
	var failures []error
	for _, object := range objects {
		if err := applier.apply(ctx, object); err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", object, err))
			continue
		}
		fmt.Fprintf(os.Stderr, "%s: %s\n", object, applier.done())
	}
	return errors.Join(failures...)
}

type applier struct {
	options    applyOptions
	client     dynamic.Interface
	mapper     *restmapper.DeferredDiscoveryRESTMapper
	namespaces map[string]bool // Those among the manifests.
	newKinds   map[schema.GroupKind]bool
}

func newApplier(options applyOptions, objects []manifestObject) (*applier, error) {
	config, err := clientConfig(options.kubeconfig)
	if err != nil {
		return nil, err
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	discoveryClient, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, err
	}
	a := &applier{
		options:    options,
		client:     client,
		mapper:     restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(discoveryClient)),
		namespaces: map[string]bool{},
		newKinds:   map[schema.GroupKind]bool{},
	}
	for _, object := range objects {
		switch object.GroupVersionKind().GroupKind() {
		case schema.GroupKind{Kind: "Namespace"}:
			a.namespaces[object.GetName()] = true
		case schema.GroupKind{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}:
			a.newKinds[definedKind(object)] = true
		}
	}
	return a, nil
}

func definedKind(definition manifestObject) schema.GroupKind {
	group, _, _ := unstructured.NestedString(definition.Object, "spec", "group")
	kind, _, _ := unstructured.NestedString(definition.Object, "spec", "names", "kind")
	return schema.GroupKind{Group: group, Kind: kind}
}

func (a *applier) done() string {
	if a.options.dryRun {
		return "valid"
	}
	return "applied"
}

func (a *applier) apply(ctx context.Context, object manifestObject) error {
	mapping, err := a.mapping(ctx, object.GroupVersionKind())
	if err != nil {
		return err
	}
	resource, err := a.resource(ctx, mapping, object)
	if err != nil {
		return err
	}
	encoded, err := json.Marshal(object.Object)
	if err != nil {
		return fmt.Errorf("encoding: %w", err)
	}
	patch := metav1.PatchOptions{
		FieldManager:    fieldManager,
		FieldValidation: metav1.FieldValidationStrict,
		// Tests own the cluster: what they apply wins over earlier owners.
		Force: ptr.To(true),
	}
	if a.options.dryRun {
		patch.DryRun = []string{metav1.DryRunAll}
	}
	_, err = resource.Patch(ctx, object.GetName(), types.ApplyPatchType, encoded, patch)
	return err
}

// mapping finds the resource of a kind, and waits for it to be served if the
// manifests define it.
func (a *applier) mapping(ctx context.Context, gvk schema.GroupVersionKind) (*meta.RESTMapping, error) {
	mapping, err := a.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if err == nil || !meta.IsNoMatchError(err) || !a.newKinds[gvk.GroupKind()] || a.options.dryRun {
		return mapping, err
	}
	last := err
	err = wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, newKindTimeout, false, func(context.Context) (bool, error) {
		a.mapper.Reset()
		mapping, last = a.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
		return last == nil, nil
	})
	if err != nil {
		return nil, fmt.Errorf("waited %s for the new kind: %w", newKindTimeout, last)
	}
	return mapping, nil
}

// resource gives the client for an object, having filled in its namespace.
func (a *applier) resource(ctx context.Context, mapping *meta.RESTMapping, object manifestObject) (dynamic.ResourceInterface, error) {
	resource := a.client.Resource(mapping.Resource)
	if mapping.Scope.Name() == meta.RESTScopeNameRoot {
		return resource, nil
	}
	if object.GetNamespace() == "" {
		object.SetNamespace(a.options.namespace)
	}
	if a.options.dryRun && a.namespaces[object.GetNamespace()] {
		if err := a.substituteMissingNamespace(ctx, object); err != nil {
			return nil, err
		}
	}
	return resource.Namespace(object.GetNamespace()), nil
}

// substituteMissingNamespace makes objects in a Namespace that a dry run
// declares but does not create valid by themselves.
func (a *applier) substituteMissingNamespace(ctx context.Context, object manifestObject) error {
	namespaces := schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}
	_, err := a.client.Resource(namespaces).Get(ctx, object.GetNamespace(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		object.SetNamespace(metav1.NamespaceDefault)
		return nil
	}
	return err
}

func readManifests(files []string) ([]manifestObject, error) {
	var objects []manifestObject
	for _, file := range files {
		content, err := readFileOrStdin(file)
		if err != nil {
			return nil, err
		}
		inFile, err := parseManifest(file, content)
		if err != nil {
			return nil, err
		}
		objects = append(objects, inFile...)
	}
	if len(objects) == 0 {
		return nil, errors.New("the manifests contain no objects")
	}
	return objects, nil
}

func readFileOrStdin(file string) ([]byte, error) {
	if file == "-" {
		return io.ReadAll(os.Stdin)
	}
	return os.ReadFile(file)
}

func parseManifest(file string, content []byte) ([]manifestObject, error) {
	var objects []manifestObject
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(content)))
	for number := 1; ; number++ {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		source := fmt.Sprintf("%s, document %d", file, number)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", source, err)
		}
		inDocument, err := parseDocument(source, document)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", source, err)
		}
		objects = append(objects, inDocument...)
	}
}

// parseDocument parses strictly, since the server never sees fields given
// twice: the conversion to JSON would keep only one of them.
func parseDocument(source string, document []byte) ([]manifestObject, error) {
	encoded, err := yaml.YAMLToJSONStrict(document)
	if err != nil {
		return nil, err
	}
	if bytes.Equal(encoded, []byte("null")) {
		return nil, nil // Only comments.
	}
	object := &unstructured.Unstructured{}
	if err := object.UnmarshalJSON(encoded); err != nil {
		return nil, err
	}
	if !object.IsList() {
		return checkedObjects(source, *object)
	}
	list, err := object.ToList()
	if err != nil {
		return nil, err
	}
	return checkedObjects(source, list.Items...)
}

func checkedObjects(source string, items ...unstructured.Unstructured) ([]manifestObject, error) {
	var objects []manifestObject
	for i := range items {
		if items[i].GetName() == "" {
			return nil, fmt.Errorf("%s without metadata.name", items[i].GetKind())
		}
		objects = append(objects, manifestObject{Unstructured: &items[i], source: source})
	}
	return objects, nil
}
