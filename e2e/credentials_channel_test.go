package e2e_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/credentials/local"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/h2test"
)

// sender are per-RPC credentials that send their name.
type sender struct {
	name   string
	secure bool // RequireTransportSecurity
}

func (n sender) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"x-" + n.name: n.name}, nil
}
func (n sender) RequireTransportSecurity() bool { return n.secure }

// securePeer is a server that keeps what the latest request said.
type securePeer struct {
	target string

	mu   sync.Mutex
	seen map[string]string // guarded by mu: :scheme, and the headers of senders
}

func newSecurePeer(t *testing.T, opts ...h2test.Option) *securePeer {
	t.Helper()
	srv := h2test.Listen(t, opts...)
	p := &securePeer{target: srv.Addr()}
	srv.Serve(func(s *h2test.Stream) {
		seen := map[string]string{}
		for _, name := range []string{":scheme", "x-option", "x-bundle", "x-subchannel", "x-call"} {
			if v := s.Headers.Field(name); v != "" {
				seen[name] = v
			}
		}
		p.mu.Lock()
		p.seen = seen
		p.mu.Unlock()
		h2test.Echo(s)
	})
	return p
}

// take returns what was seen and forgets it.
func (p *securePeer) take() map[string]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	seen := p.seen
	p.seen = nil
	return seen
}

// bundleOf is testBundle, or nil for one without parts, as an option wants it.
func bundleOf(transport credentials.TransportCredentials, perRPC credentials.PerRPCCredentials) credentials.Bundle {
	return bundle{transport: transport, perRPC: perRPC}
}

// securityOf asks grpc-go and us: the channel cannot be made, or what became of an
// RPC and what the server saw of it.
func securityOf(t *testing.T, p *securePeer, err error, cc grpc.ClientConnInterface, call []grpc.CallOption) (map[string]string, error) {
	t.Helper()
	if err != nil {
		return nil, err
	}
	_, err = backendtest.AskName(backendtest.Bounded(t), cc, call...)
	return p.take(), err
}

// TestCredentialsMatrix: how connections are secured, by which option, against where
// per-RPC credentials come from and whether they require security. The outcomes are those
// of grpc-go, but for a bundle that contradicts itself, which is refused here at once and
// there by every connection.
func TestCredentialsMatrix(t *testing.T) {
	tcp, unix, secured := newSecurePeer(t), newSecurePeer(t, h2test.Unix()), newSecurePeer(t, h2test.WithTLS())
	unix.target = "unix:" + unix.target
	theTLS := credentials.NewTLS(h2test.DefaultCA().ClientConfig("localhost"))
	for _, transport := range []struct {
		name   string
		peer   *securePeer
		creds  credentials.TransportCredentials // nil: WithInsecure
		secure bool                             // privacy and integrity
		late   bool                             // that they are not is known once a connection is made
		scheme string
	}{
		{"WithInsecure", tcp, nil, false, false, "http"},
		{"insecure credentials", tcp, insecure.NewCredentials(), false, false, "http"},
		{"TLS", secured, theTLS, true, false, "https"},
		{"local credentials, loopback", tcp, local.NewCredentials(), false, true, "http"},
		{"local credentials, unix socket", unix, local.NewCredentials(), true, false, "http"},
	} {
		for _, by := range []string{"option", "bundle"} {
			if by == "bundle" && transport.creds == nil {
				continue
			}
			for _, from := range []string{"", "option", "bundle", "call"} {
				if from == "bundle" && by != "bundle" {
					continue
				}
				for _, strict := range []bool{false, true} {
					if from == "" && strict {
						continue
					}
					t.Run(fmt.Sprintf("%s by %s, from %q, strict %t", transport.name, by, from, strict), func(t *testing.T) {
						token := sender{from, strict}
						ours, theirs := []grpcdial.DialOption(nil), []grpc.DialOption(nil)
						var ofBundle credentials.PerRPCCredentials
						var call []grpc.CallOption
						switch from {
						case "option":
							ours, theirs = append(ours, grpcdial.WithPerRPCCredentials(token)), append(theirs, grpc.WithPerRPCCredentials(token))
						case "bundle":
							ofBundle = token
						case "call":
							call = append(call, grpc.PerRPCCredentials(token))
						}
						switch {
						case transport.creds == nil:
							ours, theirs = append(ours, grpcdial.WithInsecure()), append(theirs, grpc.WithTransportCredentials(insecure.NewCredentials()))
						case by == "bundle":
							b := bundleOf(transport.creds, ofBundle)
							ours, theirs = append(ours, grpcdial.WithCredentialsBundle(b)), append(theirs, grpc.WithCredentialsBundle(b))
						default:
							ours, theirs = append(ours, grpcdial.WithTransportCredentials(transport.creds)), append(theirs, grpc.WithTransportCredentials(transport.creds))
						}

						cc, made := grpcdial.NewClient(transport.peer.target, ours...)
						if made == nil {
							defer cc.Close()
						}
						seen, err := securityOf(t, transport.peer, made, cc, call)
						other, theirMade := grpc.NewClient(transport.peer.target, theirs...)
						if theirMade == nil {
							defer other.Close()
						}
						theirSeen, theirErr := securityOf(t, transport.peer, theirMade, other, call)

						unsafe := strict && !transport.secure
						if from == "bundle" && unsafe && !transport.late {
							assert.Error(t, made)
							assert.NoError(t, theirMade, "they look at the credentials of options alone")
						} else {
							assert.Equal(t, theirMade == nil, made == nil, "%v; theirs: %v", made, theirMade)
							assert.Equal(t, status.Code(theirErr), status.Code(err), "%v; theirs: %v", err, theirErr)
						}
						assert.Equal(t, theirSeen, seen)

						if !unsafe {
							want := map[string]string{":scheme": transport.scheme}
							if from != "" {
								want["x-"+from] = from
							}
							require.NoError(t, err)
							assert.Equal(t, want, seen)
							return
						}
						require.ErrorIs(t, err, grpcdial.ErrPerRPCNeedsTransportSecurity)
						assert.NotContains(t, err.Error(), "\n")
						assert.Empty(t, seen)
						switch {
						case from == "call":
							assert.Equal(t, codes.Unauthenticated, status.Code(err))
						case transport.late:
							var e *grpcdial.DialError
							require.ErrorAs(t, err, &e)
							require.Len(t, e.Attempts, 1)
							assert.Equal(t, grpcdial.PhaseTLS, e.Attempts[0].Phase)
							assert.True(t, e.Attempts[0].Permanent)
							_, err := grpcdial.Dial(transport.peer.target, append(ours, grpcdial.WithBlock(), grpcdial.FailOnNonTempDialError(true))...)
							assert.ErrorIs(t, err, grpcdial.ErrPerRPCNeedsTransportSecurity)
						default:
							assert.Error(t, made)
						}
					})
				}
			}
		}
	}
}

// TestSubchannelCredentials: a policy may make a subchannel with a bundle of its own.
// It takes the place of the channel's bundle; what WithPerRPCCredentials gave stays.
func TestSubchannelCredentials(t *testing.T) {
	plainPeer, securedPeer := newSecurePeer(t), newSecurePeer(t, h2test.WithTLS())
	theTLS := credentials.NewTLS(h2test.DefaultCA().ClientConfig("localhost"))
	free, strict := sender{name: "subchannel"}, sender{name: "subchannel", secure: true}
	plaintext := insecure.NewCredentials()
	for i, tt := range []struct {
		name   string
		peer   *securePeer
		creds  credentials.TransportCredentials // by option
		bundle credentials.Bundle               // or by bundle
		perRPC []credentials.PerRPCCredentials  // by option
		own    credentials.Bundle               // the subchannel's
		seen   map[string]string                // nil: no connection is made
	}{
		{name: "TLS on a plaintext channel", peer: securedPeer, creds: plaintext, own: bundleOf(theTLS, strict),
			seen: map[string]string{":scheme": "https", "x-subchannel": "subchannel"}},
		{name: "plaintext on a channel with TLS", peer: plainPeer, creds: theTLS, own: bundleOf(plaintext, free),
			seen: map[string]string{":scheme": "http", "x-subchannel": "subchannel"}},
		{name: "per-RPC credentials alone", peer: securedPeer, creds: theTLS, own: bundleOf(nil, strict),
			seen: map[string]string{":scheme": "https", "x-subchannel": "subchannel"}},
		{name: "besides the option's", peer: securedPeer, creds: theTLS, perRPC: []credentials.PerRPCCredentials{sender{"option", true}}, own: bundleOf(theTLS, strict),
			seen: map[string]string{":scheme": "https", "x-option": "option", "x-subchannel": "subchannel"}},
		{name: "in place of the channel's bundle", peer: securedPeer, bundle: bundleOf(theTLS, sender{name: "bundle"}), own: bundleOf(theTLS, strict),
			seen: map[string]string{":scheme": "https", "x-subchannel": "subchannel"}},
		{name: "transport credentials alone", peer: securedPeer, bundle: bundleOf(theTLS, sender{name: "bundle"}), own: bundleOf(theTLS, nil),
			seen: map[string]string{":scheme": "https"}},
		{name: "none of its own", peer: securedPeer, bundle: bundleOf(theTLS, sender{name: "bundle"}),
			seen: map[string]string{":scheme": "https", "x-bundle": "bundle"}},
		{name: "strict ones without security", peer: plainPeer, creds: plaintext, own: bundleOf(nil, strict)},
		{name: "plaintext for the option's strict ones", peer: plainPeer, creds: theTLS, perRPC: []credentials.PerRPCCredentials{sender{"option", true}}, own: bundleOf(plaintext, nil)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := &backendtest.SpyPolicy{As: fmt.Sprintf("bundled_%d", i), OnUpdate: func(s *backendtest.Spy, state balancer.ClientConnState) error {
				var sc balancer.SubConn
				sc, err := s.CC.NewSubConn(state.ResolverState.Addresses, balancer.NewSubConnOptions{CredsBundle: tt.own, StateListener: func(state balancer.SubConnState) {
					s.CC.UpdateState(balancer.State{ConnectivityState: state.ConnectivityState, Picker: backendtest.PickerFor(sc, state)})
				}})
				if err == nil {
					sc.Connect()
				}
				return err
			}}
			balancer.Register(p)
			ours, theirs := []grpcdial.DialOption{grpcdial.WithDefaultServiceConfig(p.Config())}, []grpc.DialOption{grpc.WithDefaultServiceConfig(p.Config())}
			if tt.creds != nil {
				ours, theirs = append(ours, grpcdial.WithTransportCredentials(tt.creds)), append(theirs, grpc.WithTransportCredentials(tt.creds))
			} else {
				ours, theirs = append(ours, grpcdial.WithCredentialsBundle(tt.bundle)), append(theirs, grpc.WithCredentialsBundle(tt.bundle))
			}
			for _, c := range tt.perRPC {
				ours, theirs = append(ours, grpcdial.WithPerRPCCredentials(c)), append(theirs, grpc.WithPerRPCCredentials(c))
			}
			cc, err := grpcdial.NewClient(tt.peer.target, ours...)
			require.NoError(t, err)
			defer cc.Close()
			seen, err := securityOf(t, tt.peer, nil, cc, nil)
			other, theirErr := grpc.NewClient(tt.peer.target, theirs...)
			require.NoError(t, theirErr)
			defer other.Close()
			theirSeen, theirErr := securityOf(t, tt.peer, nil, other, nil)

			assert.Equal(t, status.Code(theirErr), status.Code(err), "%v; theirs: %v", err, theirErr)
			assert.Equal(t, theirSeen, seen)
			assert.Equal(t, tt.seen, seen)
			if tt.seen == nil {
				assert.Equal(t, codes.Unavailable, status.Code(err))
				assert.ErrorIs(t, err, grpcdial.ErrPerRPCNeedsTransportSecurity)
			}
		})
	}
}
