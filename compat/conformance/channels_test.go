package conformance

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/grpcdial/grpcdial"
)

// channel is a channel of either library.
type channel interface {
	grpc.ClientConnInterface
	Close() error
}

// dialers are those of the clients under test, by their names.
var dialers = map[string]func(string, credentials.TransportCredentials) (channel, error){
	"grpcdial": func(target string, creds credentials.TransportCredentials) (channel, error) {
		return grpcdial.NewClient(target, grpcdial.WithTransportCredentials(creds))
	},
	"grpc-go": func(target string, creds credentials.TransportCredentials) (channel, error) {
		return grpc.NewClient(target, grpc.WithTransportCredentials(creds))
	},
}

// channels has one channel for each server and client certificate, so that RPCs share connections.
type channels struct {
	dial func(string, credentials.TransportCredentials) (channel, error)

	mu   sync.Mutex
	open map[string]channel // guarded by mu
}

// get returns the channel for the RPC of a request.
func (c *channels) get(target string, request message) (channel, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	root, own := request.bytes("server_tls_cert"), request.child("client_tls_creds")
	key := target + string(root) + string(own.bytes("cert"))
	if ch := c.open[key]; ch != nil {
		return ch, nil
	}
	creds := insecure.NewCredentials()
	if len(root) > 0 {
		config := &tls.Config{RootCAs: x509.NewCertPool()}
		if !config.RootCAs.AppendCertsFromPEM(root) {
			return nil, errors.New("the server's certificate cannot be read")
		}
		if request.has("client_tls_creds") {
			certificate, err := tls.X509KeyPair(own.bytes("cert"), own.bytes("key"))
			if err != nil {
				return nil, err
			}
			config.Certificates = []tls.Certificate{certificate}
		}
		creds = credentials.NewTLS(config)
	}
	ch, err := c.dial(target, creds)
	if err == nil {
		c.open[key] = ch
	}
	return ch, err
}

func (c *channels) close() (err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ch := range c.open {
		err = errors.Join(err, ch.Close())
	}
	return err
}
