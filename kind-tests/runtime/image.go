package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"runtime"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
)

// The name of the image, also in the configuration of containerd.
const image = "localhost/runtime:1"

// Gives containerd an image that holds this program alone.
func importSelf(socket string) error {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	archive, err := ociArchive(self)
	if err != nil {
		return err
	}
	client, err := containerd.New(socket, containerd.WithTimeout(patience))
	if err != nil {
		return err
	}
	defer client.Close()
	ctx := namespaces.WithNamespace(context.Background(), "k8s.io")
	_, err = client.Import(ctx, bytes.NewReader(archive))
	return err
}

// An OCI image layout as a tar archive (image-spec, image-layout.md).
func ociArchive(program []byte) ([]byte, error) {
	layer, err := tarred([]file{{"runtime", program}})
	if err != nil {
		return nil, err
	}
	var blobs []file
	describe := func(mediaType string, content []byte) map[string]any {
		digest := fmt.Sprintf("%x", sha256.Sum256(content))
		blobs = append(blobs, file{"blobs/sha256/" + digest, content})
		return map[string]any{"mediaType": mediaType, "digest": "sha256:" + digest, "size": len(content)}
	}
	const oci = "application/vnd.oci.image."
	layers := []any{describe(oci+"layer.v1.tar", layer)}
	config := marshal(map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config":       map[string]any{"Entrypoint": []string{"/runtime"}, "Cmd": []string{"pause"}},
		"rootfs":       map[string]any{"type": "layers", "diff_ids": []any{layers[0].(map[string]any)["digest"]}},
	})
	manifest := marshal(map[string]any{
		"schemaVersion": 2,
		"mediaType":     oci + "manifest.v1+json",
		"config":        describe(oci+"config.v1+json", config),
		"layers":        layers,
	})
	described := describe(oci+"manifest.v1+json", manifest)
	described["annotations"] = map[string]string{"io.containerd.image.name": image}
	index := marshal(map[string]any{"schemaVersion": 2, "manifests": []any{described}})
	files := []file{{"oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)}, {"index.json", index}}
	return tarred(append(files, blobs...))
}

type file struct {
	name    string
	content []byte
}

func tarred(files []file) ([]byte, error) {
	var out bytes.Buffer
	writer := tar.NewWriter(&out)
	for _, file := range files {
		header := &tar.Header{Name: file.name, Mode: 0o755, Size: int64(len(file.content))}
		if err := writer.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := writer.Write(file.content); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), writer.Close()
}

func marshal(value any) []byte {
	text, err := json.Marshal(value)
	check(err)
	return text
}
