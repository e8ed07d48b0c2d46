package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The time that anything may take.
const patience = 60 * time.Second

// The labels by which the kubelet finds sandboxes (k8s.io/kubelet/pkg/types).
const (
	podName      = "io.kubernetes.pod.name"
	podNamespace = "io.kubernetes.pod.namespace"
	podUID       = "io.kubernetes.pod.uid"
)

func dial(socket string) (cri.RuntimeServiceClient, func(), error) {
	connection, err := grpc.NewClient("unix://"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, nil, err
	}
	return cri.NewRuntimeServiceClient(connection), func() { connection.Close() }, nil
}

// Makes a sandbox, in the cgroup CGROUP_PARENT of the environment. words: SOCKET NAMESPACE NAME UID [KEY=VALUE...]
func runPod(words []string) error {
	runtime, hangUp, err := dial(words[0])
	if err != nil {
		return err
	}
	defer hangUp()
	namespace, name, uid := words[1], words[2], words[3]
	labels := map[string]string{podName: name, podNamespace: namespace, podUID: uid}
	for _, label := range words[4:] {
		key, value, _ := strings.Cut(label, "=")
		labels[key] = value
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	config := &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: name, Namespace: namespace, Uid: uid},
		Hostname: name,
		Labels:   labels,
		Linux:    linux(),
	}
	began := time.Now()
	made, err := runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: config})
	if err != nil {
		return err
	}
	took := time.Since(began)
	status, err := runtime.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: made.PodSandboxId})
	if err != nil {
		return err
	}
	network := status.Status.Network
	fmt.Print(made.PodSandboxId, " ", took.Milliseconds(), " ", network.Ip)
	for _, more := range network.AdditionalIps {
		fmt.Print(" ", more.Ip)
	}
	fmt.Println()
	return nil
}

func linux() *cri.LinuxPodSandboxConfig {
	return &cri.LinuxPodSandboxConfig{CgroupParent: os.Getenv("CGROUP_PARENT")}
}

// Runs a container. words: SOCKET ID WORD...
func runContainer(words []string) (int, error) {
	runtime, hangUp, err := dial(words[0])
	if err != nil {
		return 0, err
	}
	defer hangUp()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	status, err := runtime.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: words[1]})
	if err != nil {
		return 0, err
	}
	attempt := uint32(time.Now().UnixNano())
	config := &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: "main", Attempt: attempt},
		Image:    &cri.ImageSpec{Image: image},
		Args:     words[2:],
		Linux:    &cri.LinuxContainerConfig{},
	}
	made, err := runtime.CreateContainer(ctx, &cri.CreateContainerRequest{
		PodSandboxId:  words[1],
		Config:        config,
		SandboxConfig: &cri.PodSandboxConfig{Metadata: status.Status.Metadata, Linux: linux()},
	})
	if err != nil {
		return 0, err
	}
	if _, err := runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: made.ContainerId}); err != nil {
		return 0, err
	}
	for {
		status, err := runtime.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: made.ContainerId})
		if err != nil {
			return 0, err
		}
		if status.Status.State == cri.ContainerState_CONTAINER_EXITED {
			return int(status.Status.ExitCode), nil
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Ends a sandbox. words: SOCKET ID
func endPod(words []string) error {
	runtime, hangUp, err := dial(words[0])
	if err != nil {
		return err
	}
	defer hangUp()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: words[1]}); err != nil {
		return err
	}
	_, err = runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: words[1]})
	return err
}
