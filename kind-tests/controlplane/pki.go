package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
)

// certificateLifetime is far longer than any test, and the certificates are
// trusted by nothing but the kubeconfigs next to them.
const certificateLifetime = 365 * 24 * time.Hour

// credentials are the files that authenticate the control plane and its
// administrator. They live in the state directory and are kept over a restart,
// so that kubeconfigs made before it stay valid.
type credentials struct {
	caCert            string
	caKey             string
	servingCert       string
	servingKey        string
	serviceAccountKey string
	tokenFile         string
	adminToken        string
}

// ensureCredentials makes the credentials that are missing in dir, and a new
// serving certificate for the given addresses.
func ensureCredentials(dir string, addresses []net.IP) (*credentials, error) {
	c := &credentials{
		caCert:            filepath.Join(dir, "ca.crt"),
		caKey:             filepath.Join(dir, "ca.key"),
		servingCert:       filepath.Join(dir, "apiserver.crt"),
		servingKey:        filepath.Join(dir, "apiserver.key"),
		serviceAccountKey: filepath.Join(dir, "service-account.key"),
		tokenFile:         filepath.Join(dir, "tokens.csv"),
	}
	steps := []struct {
		what string
		do   func() error
	}{
		{"certificate authority", c.ensureCA},
		{"serving certificate", func() error { return c.issueServingCertificate(addresses) }},
		{"service account key", func() error { return ensureKey(c.serviceAccountKey) }},
		{"admin token", func() error { return c.ensureAdminToken(filepath.Join(dir, "admin.token")) }},
	}
	for _, step := range steps {
		if err := step.do(); err != nil {
			return nil, fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return c, nil
}

func (c *credentials) ensureCA() error {
	if err := ensureKey(c.caKey); err != nil {
		return err
	}
	if exists, err := fileExists(c.caCert); err != nil || exists {
		return err
	}
	key, err := readKey(c.caKey)
	if err != nil {
		return err
	}
	template, err := certificateTemplate("shunt-test-ca")
	if err != nil {
		return err
	}
	template.IsCA = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	return writeCertificate(c.caCert, template, template, key.Public(), key)
}

// issueServingCertificate always issues anew: the address may differ from that
// of an earlier run in the same directory.
func (c *credentials) issueServingCertificate(addresses []net.IP) error {
	caKey, err := readKey(c.caKey)
	if err != nil {
		return err
	}
	caCerts, err := cert.CertsFromFile(c.caCert)
	if err != nil {
		return fmt.Errorf("reading CA certificate: %w", err)
	}
	if err := ensureKey(c.servingKey); err != nil {
		return err
	}
	key, err := readKey(c.servingKey)
	if err != nil {
		return err
	}
	template, err := certificateTemplate("kube-apiserver")
	if err != nil {
		return err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	template.IPAddresses = addresses
	template.DNSNames = []string{
		"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
		"kubernetes.default.svc.cluster.local",
	}
	return writeCertificate(c.servingCert, template, caCerts[0], key.Public(), caKey)
}

// ensureAdminToken makes the token of the administrator, and the token file
// that makes kube-apiserver accept it.
func (c *credentials) ensureAdminToken(path string) error {
	token, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		secret := make([]byte, 16)
		if _, err := rand.Read(secret); err != nil {
			return fmt.Errorf("generating token: %w", err)
		}
		token = []byte(hex.EncodeToString(secret))
		if err := os.WriteFile(path, token, 0o600); err != nil {
			return err
		}
	case err != nil:
		return err
	}
	c.adminToken = string(token)
	line := fmt.Sprintf("%s,admin,admin,\"system:masters\"\n", c.adminToken)
	return os.WriteFile(c.tokenFile, []byte(line), 0o600)
}

func certificateTemplate(commonName string) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("generating certificate serial number: %w", err)
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: commonName},
		NotBefore:             now.Add(-time.Minute),
		NotAfter:              now.Add(certificateLifetime),
		BasicConstraintsValid: true,
	}, nil
}

func writeCertificate(path string, template, parent *x509.Certificate, public crypto.PublicKey, signer crypto.Signer) error {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	if err != nil {
		return fmt.Errorf("signing certificate: %w", err)
	}
	block := &pem.Block{Type: cert.CertificateBlockType, Bytes: der}
	return os.WriteFile(path, pem.EncodeToMemory(block), 0o644)
}

func ensureKey(path string) error {
	if exists, err := fileExists(path); err != nil || exists {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("generating key: %w", err)
	}
	encoded, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		return fmt.Errorf("encoding key: %w", err)
	}
	return os.WriteFile(path, encoded, 0o600)
}

func readKey(path string) (crypto.Signer, error) {
	key, err := keyutil.PrivateKeyFromFile(path)
	if err != nil {
		return nil, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%s holds a %T, which cannot sign", path, key)
	}
	return signer, nil
}

func fileExists(path string) (bool, error) {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
