package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

type serviceAccountOptions struct {
	kubeconfig string
	namespace  string
	name       string
	out        string
	duration   time.Duration
}

func newServiceAccountCommand() *cobra.Command {
	options := serviceAccountOptions{namespace: metav1.NamespaceDefault, duration: 24 * time.Hour}
	command := &cobra.Command{
		Use:   "serviceaccount --kubeconfig FILE --name NAME --out FILE",
		Short: "Make a kubeconfig for an existing ServiceAccount",
		Long: `Requests a token for a ServiceAccount and writes a kubeconfig with it, so that
a test runs with that account's permissions rather than an administrator's.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			return makeServiceAccountKubeconfig(command.Context(), options)
		},
	}
	flags := command.Flags()
	flags.StringVar(&options.kubeconfig, "kubeconfig", "", "kubeconfig of an administrator (required)")
	flags.StringVar(&options.namespace, "namespace", options.namespace, "namespace of the ServiceAccount")
	flags.StringVar(&options.name, "name", "", "name of the ServiceAccount (required)")
	flags.StringVar(&options.out, "out", "", "kubeconfig to write (required)")
	flags.DurationVar(&options.duration, "duration", options.duration, "how long the token is valid, at least 10m")
	markRequired(command, "kubeconfig", "name", "out")
	return command
}

func makeServiceAccountKubeconfig(ctx context.Context, options serviceAccountOptions) error {
	config, err := protobufClientConfig(options.kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	token, err := requestToken(ctx, client, options)
	if err != nil {
		return fmt.Errorf("requesting a token for ServiceAccount %s/%s: %w", options.namespace, options.name, err)
	}
	if err := rest.LoadTLSFiles(config); err != nil {
		return fmt.Errorf("reading CA certificate of %s: %w", options.kubeconfig, err)
	}
	if err := writeTokenKubeconfig(options.out, config.Host, config.CAData, options.name, token); err != nil {
		return fmt.Errorf("writing %s: %w", options.out, err)
	}
	return nil
}

func requestToken(ctx context.Context, client kubernetes.Interface, options serviceAccountOptions) (string, error) {
	seconds := int64(options.duration.Seconds())
	request := &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds},
	}
	response, err := client.CoreV1().ServiceAccounts(options.namespace).CreateToken(ctx, options.name, request, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	return response.Status.Token, nil
}
