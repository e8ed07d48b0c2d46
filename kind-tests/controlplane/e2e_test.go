package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"
)

// runAsProgram in the environment makes the test binary be the program, so
// that the tests run the real command line without a second, slow link.
const runAsProgram = "CONTROLPLANE_TEST_RUN_AS_PROGRAM"

const (
	testTimeout = 2 * time.Minute
	// stopLimit is far below the minute that kube-apiserver would wait for
	// open watches if told nothing else.
	stopLimit = 20 * time.Second
)

func TestMain(m *testing.M) {
	if os.Getenv(runAsProgram) != "" {
		os.Exit(run())
	}
	os.Exit(m.Run())
}

func program(ctx context.Context, arguments ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, os.Args[0], arguments...)
	command.Env = append(os.Environ(), runAsProgram+"=1")
	return command
}

// runProgram runs a subcommand to its end.
func runProgram(ctx context.Context, arguments ...string) (stdout, stderr string, err error) {
	command := program(ctx, arguments...)
	var out, errors bytes.Buffer
	command.Stdout, command.Stderr = &out, &errors
	err = command.Run()
	return out.String(), errors.String(), err
}

// server is a running "serve".
type server struct {
	serveResult
	process *exec.Cmd
	stdin   io.WriteCloser
}

func startServer(t *testing.T, dir string) *server {
	t.Helper()
	s := &server{process: program(context.Background(),
		"serve", "--dir", dir, "--address", "127.0.0.1", "--port", "0", "--exit-on-stdin-eof")}
	var log bytes.Buffer
	s.process.Stderr = &log
	stdout, err := s.process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if s.stdin, err = s.process.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := s.process.Start(); err != nil {
		t.Fatal(err)
	}
	// Reading ends with the process, so a hanging start needs a limit, too.
	limit := time.AfterFunc(testTimeout, func() { s.process.Process.Kill() })
	defer limit.Stop()
	if err := json.NewDecoder(stdout).Decode(&s.serveResult); err != nil {
		s.process.Process.Kill()
		s.process.Wait()
		t.Fatalf("serve did not get ready: %v\n%s", err, log.String())
	}
	t.Cleanup(func() {
		s.stop(t)
		if t.Failed() {
			t.Logf("log of serve:\n%s", log.String())
		}
	})
	return s
}

// stop closes stdin, and checks that the process ends of itself and in time.
func (s *server) stop(t *testing.T) {
	t.Helper()
	if s.process.ProcessState != nil {
		return
	}
	s.stdin.Close()
	limit := time.AfterFunc(stopLimit, func() { s.process.Process.Kill() })
	defer limit.Stop()
	if err := s.process.Wait(); err != nil {
		t.Errorf("serve did not end cleanly: %v", err)
	}
}

func newClient(t *testing.T, kubeconfig string) kubernetes.Interface {
	t.Helper()
	config, err := protobufClientConfig(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func TestControlPlane(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	server := startServer(t, t.TempDir())
	client := newClient(t, server.Kubeconfig)

	t.Run("Pods behind a Service get an EndpointSlice", func(t *testing.T) { testEndpointSlice(ctx, t, client) })
	t.Run("a list can be streamed", func(t *testing.T) { testStreamingList(ctx, t, client) })
	t.Run("apply and a restricted account", func(t *testing.T) { testRestrictedAccount(ctx, t, server.Kubeconfig) })
	t.Run("apply refuses unknown fields", func(t *testing.T) { testStrictApply(ctx, t, server.Kubeconfig) })
	t.Run("a dry run stores nothing", func(t *testing.T) { testDryRun(ctx, t, server.Kubeconfig, client) })
	t.Run("load", func(t *testing.T) { testLoad(ctx, t, server.Kubeconfig, client) })
}

func TestRestartKeepsStateAndCredentials(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	dir := t.TempDir()
	first := startServer(t, dir)
	before, err := newClient(t, first.Kubeconfig).CoreV1().Namespaces().Get(ctx, "default", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	token, err := os.ReadFile(filepath.Join(dir, "admin.token"))
	if err != nil {
		t.Fatal(err)
	}
	first.stop(t)

	second := startServer(t, dir)
	after, err := newClient(t, second.Kubeconfig).CoreV1().Namespaces().Get(ctx, "default", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if before.UID != after.UID {
		t.Errorf("the default namespace was made anew: it was %s and is %s", before.UID, after.UID)
	}
	if tokenAfter, err := os.ReadFile(filepath.Join(dir, "admin.token")); err != nil || !bytes.Equal(token, tokenAfter) {
		t.Errorf("the admin token changed (%v)", err)
	}
}

func testEndpointSlice(ctx context.Context, t *testing.T, client kubernetes.Interface) {
	const podIP = "10.244.0.7"
	labels := map[string]string{"app": "echo"}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-a"}}
	if _, err := client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "echo"},
		Spec:       corev1.ServiceSpec{Selector: labels, Ports: []corev1.ServicePort{{Name: "http", Port: 80}}},
	}
	if _, err := client.CoreV1().Services("default").Create(ctx, service, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "echo", Labels: labels},
		Spec:       corev1.PodSpec{NodeName: node.Name, Containers: []corev1.Container{{Name: "echo", Image: "echo"}}},
	}
	if _, err := client.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	status := map[string]any{"status": corev1.PodStatus{
		Phase: corev1.PodRunning, PodIP: podIP, PodIPs: []corev1.PodIP{{IP: podIP}},
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
	}}
	patch, err := json.Marshal(status)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().Pods("default").Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}

	waitForReadyEndpoint(ctx, t, client, service.Name, podIP, node.Name)

	// The slices of a deleted Service go, too.
	if err := client.CoreV1().Services("default").Delete(ctx, service.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	err = waitFor(ctx, "EndpointSlices to go", func(ctx context.Context) error {
		slices, err := listSlices(ctx, client, service.Name)
		if err == nil && len(slices) > 0 {
			err = errors.New("they are still there")
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func listSlices(ctx context.Context, client kubernetes.Interface, service string) ([]discoveryv1.EndpointSlice, error) {
	slices, err := client.DiscoveryV1().EndpointSlices("default").List(ctx,
		metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + service})
	if err != nil {
		return nil, err
	}
	return slices.Items, nil
}

func waitForReadyEndpoint(ctx context.Context, t *testing.T, client kubernetes.Interface, service, address, node string) {
	t.Helper()
	err := waitFor(ctx, "a ready endpoint", func(ctx context.Context) error {
		slices, err := listSlices(ctx, client, service)
		if err != nil {
			return err
		}
		for _, slice := range slices {
			for _, endpoint := range slice.Endpoints {
				if ptr.Deref(endpoint.Conditions.Ready, false) && endpoint.Addresses[0] == address && ptr.Deref(endpoint.NodeName, "") == node {
					return nil
				}
			}
		}
		return errors.New("no such endpoint yet")
	})
	if err != nil {
		t.Fatal(err)
	}
}

func testStreamingList(ctx context.Context, t *testing.T, client kubernetes.Interface) {
	watcher, err := client.CoreV1().Services(metav1.NamespaceAll).Watch(ctx, metav1.ListOptions{
		SendInitialEvents:    ptr.To(true),
		ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan,
		AllowWatchBookmarks:  true,
		TimeoutSeconds:       ptr.To[int64](10),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Stop()
	for event := range watcher.ResultChan() {
		service, ok := event.Object.(*corev1.Service)
		if !ok {
			t.Fatalf("unexpected event %s: %v", event.Type, event.Object)
		}
		if event.Type == watch.Bookmark && service.Annotations[metav1.InitialEventsAnnotationKey] == "true" {
			return
		}
	}
	t.Fatal("the watch ended without a bookmark that marks the end of the list")
}

const readerManifest = `# A comment before the first document.
---
apiVersion: v1
kind: Namespace
metadata: {name: restricted}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: reader, namespace: restricted}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: service-reader}
rules:
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: service-reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: service-reader}
subjects:
- {kind: ServiceAccount, name: reader, namespace: restricted}
`

func writeManifest(t *testing.T, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "manifest.yaml")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func testRestrictedAccount(ctx context.Context, t *testing.T, adminKubeconfig string) {
	if _, stderr, err := runProgram(ctx, "apply", "--kubeconfig", adminKubeconfig, writeManifest(t, readerManifest)); err != nil {
		t.Fatalf("apply: %v\n%s", err, stderr)
	}
	kubeconfig := filepath.Join(t.TempDir(), "reader.kubeconfig")
	if _, stderr, err := runProgram(ctx, "serviceaccount", "--kubeconfig", adminKubeconfig,
		"--namespace", "restricted", "--name", "reader", "--out", kubeconfig); err != nil {
		t.Fatalf("serviceaccount: %v\n%s", err, stderr)
	}

	reader := newClient(t, kubeconfig)
	// The authorizer learns of new roles by a watch, shortly after.
	if err := waitFor(ctx, "permission to list Services", func(ctx context.Context) error {
		_, err := reader.CoreV1().Services(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := reader.CoreV1().Services("default").Delete(ctx, "kubernetes", metav1.DeleteOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("deleting a Service gave %v instead of being forbidden", err)
	}
}

func testStrictApply(ctx context.Context, t *testing.T, kubeconfig string) {
	manifest := writeManifest(t, `
apiVersion: v1
kind: Service
metadata: {name: typo}
spec: {selectr: {app: a}, ports: [{port: 80}]}
`)
	for _, arguments := range [][]string{nil, {"--dry-run"}} {
		arguments = append([]string{"apply", "--kubeconfig", kubeconfig, manifest}, arguments...)
		_, stderr, err := runProgram(ctx, arguments...)
		if err == nil || !strings.Contains(stderr, "selectr") || !strings.Contains(stderr, "Service default/typo") {
			t.Errorf("%v gave %v and does not name field and object:\n%s", arguments, err, stderr)
		}
	}
}

func testDryRun(ctx context.Context, t *testing.T, kubeconfig string, client kubernetes.Interface) {
	manifest := writeManifest(t, `
apiVersion: v1
kind: Namespace
metadata: {name: not-stored}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: not-stored, namespace: not-stored}
`)
	if _, stderr, err := runProgram(ctx, "apply", "--dry-run", "--kubeconfig", kubeconfig, manifest); err != nil {
		t.Fatalf("apply: %v\n%s", err, stderr)
	}
	if _, err := client.CoreV1().Namespaces().Get(ctx, "not-stored", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the dry run made the namespace, or: %v", err)
	}
}

func testLoad(ctx context.Context, t *testing.T, kubeconfig string, client kubernetes.Interface) {
	stdout, stderr, err := runProgram(ctx, "load", "--kubeconfig", kubeconfig,
		"--services", "20", "--endpoints", "3", "--node-names", "node-a,node-b")
	if err != nil {
		t.Fatalf("load: %v\n%s", err, stderr)
	}
	var result loadResult
	if err := json.Unmarshal([]byte(stdout), &result); err != nil {
		t.Fatalf("%v in %q", err, stdout)
	}
	if result.Services != 20 || result.NodePorts != 2 || result.EndpointSlices != 20 || result.Endpoints != 60 {
		t.Errorf("wrong counts: %+v", result)
	}
	slices, err := client.DiscoveryV1().EndpointSlices("load").List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	addresses := map[string]bool{}
	for _, slice := range slices.Items {
		for _, endpoint := range slice.Endpoints {
			addresses[endpoint.Addresses[0]] = true
		}
	}
	if len(slices.Items) != 20 || len(addresses) != 60 {
		t.Errorf("%d EndpointSlices with %d addresses stored, want 20 with 60", len(slices.Items), len(addresses))
	}
}
