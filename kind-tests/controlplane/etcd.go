package main

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"k8s.io/klog/v2"
)

// maxUnixSocketPath is the size of sun_path in struct sockaddr_un, less its
// terminating zero.
const maxUnixSocketPath = 107

const etcdStartTimeout = 30 * time.Second

// etcdServer is an embedded etcd with one member. It listens on Unix sockets
// only, so it needs no port and cannot be reached from another machine.
type etcdServer struct {
	server    *embed.Etcd
	clientURL string
}

func startEtcd(ctx context.Context, dir, logLevel string) (*etcdServer, error) {
	config, err := etcdConfig(dir, logLevel)
	if err != nil {
		return nil, err
	}
	server, err := embed.StartEtcd(config)
	if err != nil {
		return nil, fmt.Errorf("starting etcd: %w", err)
	}
	e := &etcdServer{server: server, clientURL: config.ListenClientUrls[0].String()}
	if err := e.waitReady(ctx); err != nil {
		server.Close()
		return nil, err
	}
	return e, nil
}

func (e *etcdServer) waitReady(ctx context.Context) error {
	select {
	case <-e.server.Server.ReadyNotify():
		return nil
	case err := <-e.server.Err():
		return fmt.Errorf("etcd ended while starting: %w", err)
	case <-time.After(etcdStartTimeout):
		return fmt.Errorf("etcd not ready after %s", etcdStartTimeout)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func etcdConfig(dir, logLevel string) (*embed.Config, error) {
	dataDir := filepath.Join(dir, "etcd")
	if err := os.MkdirAll(dataDir, 0o700); err != nil {
		return nil, err
	}
	clientURL, err := unixSocketURL(filepath.Join(dir, "etcd.sock"))
	if err != nil {
		return nil, err
	}
	peerURL, err := unixSocketURL(filepath.Join(dir, "etcd-peer.sock"))
	if err != nil {
		return nil, err
	}
	// etcd refuses to advertise Unix sockets. Nobody reads what a lone member
	// advertises, so these addresses lead nowhere on purpose.
	nowhere := url.URL{Scheme: "http", Host: "127.0.0.1:0"}

	config := embed.NewConfig()
	config.Dir = dataDir
	config.ListenClientUrls = []url.URL{*clientURL}
	config.ListenPeerUrls = []url.URL{*peerURL}
	config.AdvertiseClientUrls = []url.URL{nowhere}
	config.AdvertisePeerUrls = []url.URL{nowhere}
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	config.LogLevel = logLevel
	// The data lives no longer than the test, and a lone member elects itself:
	// durability and long election timeouts would only cost time.
	config.UnsafeNoFsync = true
	config.TickMs = 20
	config.ElectionMs = 200
	// Benchmarks store hundreds of thousands of objects; the default of 2 GiB
	// is near. The server only reserves what it uses.
	config.QuotaBackendBytes = 8 << 30
	return config, nil
}

func unixSocketURL(path string) (*url.URL, error) {
	if len(path) > maxUnixSocketPath {
		return nil, fmt.Errorf("socket path %s is longer than the %d bytes the kernel allows: use a shorter --dir",
			path, maxUnixSocketPath)
	}
	return &url.URL{Scheme: "unix", Path: path}, nil
}

// run blocks until ctx ends or etcd fails, and closes the server.
func (e *etcdServer) run(ctx context.Context) error {
	defer e.server.Close()
	select {
	case err := <-e.server.Err():
		return err
	case <-ctx.Done():
		return nil
	}
}

// etcdLogLevel follows the process's verbosity. Even then etcd's own log is
// seldom of use in tests, so it needs more than level 1.
func etcdLogLevel() string {
	if klog.V(2).Enabled() {
		return "info"
	}
	return "error"
}
