package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const replaceTimeout = 10 * time.Second

// newReplaceCommand changes what etcd holds behind the API server's back, as a release without today's validation may
// have left it. The API server serves it: it validates only what is written through it.
func newReplaceCommand() *cobra.Command {
	var kubeconfig, key, old, replacement string
	command := &cobra.Command{
		Use:   "replace",
		Short: "Replace bytes of a stored object by as many others, without validation",
		Args:  cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			return replace(command.Context(), filepath.Dir(kubeconfig), key, []byte(old), []byte(replacement))
		},
	}
	flags := command.Flags()
	flags.StringVar(&kubeconfig, "kubeconfig", "", "the administrator's, in the directory of the running control plane")
	flags.StringVar(&key, "key", "", "the key in etcd, such as /registry/networkpolicies/default/web")
	flags.StringVar(&old, "old", "", "what is replaced, once")
	flags.StringVar(&replacement, "new", "", "by what")
	markRequired(command, "kubeconfig", "key", "old", "new")
	return command
}

func replace(ctx context.Context, dir, key string, old, replacement []byte) error {
	// Objects are stored as protobuf, with lengths.
	if len(old) != len(replacement) {
		return errors.New("--old and --new differ in length")
	}
	ctx, cancel := context.WithTimeout(ctx, replaceTimeout)
	defer cancel()
	endpoint, err := unixSocketURL(filepath.Join(dir, "etcd.sock"))
	if err != nil {
		return err
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint.String()}, Context: ctx})
	if err != nil {
		return err
	}
	defer client.Close()
	held, err := client.Get(ctx, key)
	if err != nil {
		return err
	}
	if len(held.Kvs) != 1 || !bytes.Contains(held.Kvs[0].Value, old) {
		return fmt.Errorf("%s is not there, or %q is not in it", key, old)
	}
	_, err = client.Put(ctx, key, string(bytes.Replace(held.Kvs[0].Value, old, replacement, 1)))
	return err
}
