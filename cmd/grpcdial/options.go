package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"google.golang.org/grpc/credentials"

	"github.com/grpcdial/grpcdial"
)

// dialOptions makes options of the flags that both commands honour. The error names
// a file that is of no use.
func (c *commandLine) dialOptions() ([]grpcdial.DialOption, error) {
	opts := []grpcdial.DialOption{
		grpcdial.WithUserAgent("grpcdial-cli"),
		grpcdial.WithIdleTimeout(0), // watch waits for hours, and runs no RPC
	}
	if c.authority != "" {
		opts = append(opts, grpcdial.WithAuthority(c.authority))
	}
	if c.plaintext {
		return append(opts, grpcdial.WithInsecure()), nil
	}
	config, err := c.tlsConfig()
	if err != nil {
		return nil, err
	}
	return append(opts, grpcdial.WithTransportCredentials(credentials.NewTLS(config))), nil
}

// narrated is trace, which writes every event to w if that was asked for.
func (c *commandLine) narrated(trace *grpcdial.DialTrace, w io.Writer) *grpcdial.DialTrace {
	if c.verbose {
		return narrate(trace, w)
	}
	return trace
}

func (c *commandLine) tlsConfig() (*tls.Config, error) {
	config := &tls.Config{ServerName: c.serverName, InsecureSkipVerify: c.insecure}
	if c.cacert != "" {
		pem, err := os.ReadFile(c.cacert)
		if err != nil {
			return nil, fmt.Errorf("--cacert: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--cacert: no certificate in PEM in %q", c.cacert)
		}
	}
	if c.cert != "" {
		own, err := tls.LoadX509KeyPair(c.cert, c.key)
		if err != nil {
			return nil, fmt.Errorf("--cert %q, --key %q: %w", c.cert, c.key, err)
		}
		config.Certificates = []tls.Certificate{own}
	}
	return config, nil
}

// healthChecked is the service config with which a channel is READY only while
// service is SERVING (gRPC's health checking document). Only some policies ask for
// that, round_robin among them.
func healthChecked(service string) string {
	name, err := json.Marshal(service)
	if err != nil {
		name = []byte(`""`) // a string has no other encoding
	}
	return fmt.Sprintf(`{"loadBalancingConfig":[{"round_robin":{}}],"healthCheckConfig":{"serviceName":%s}}`, name)
}
