package call

import (
	"context"
	"errors"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/h2"
)

// overrideAuthority applies CallAuthority, or else the picker's ":authority"
// (gRFC A81). The connection's credentials must vouch for it.
func (r *rpc) overrideAuthority(a *attempt) error {
	name := r.set.authority
	if name == "" && a.pickMD != nil {
		if v := a.pickMD[":authority"]; len(v) > 0 {
			name = v[0]
		}
	}
	if name == "" {
		return nil
	}
	info := a.conn.Peer().AuthInfo
	v, ok := info.(credentials.AuthorityValidator)
	if !ok {
		return status.Errorf(codes.Unavailable, "authority %q: the connection's credentials (%s) cannot validate another authority", name, authType(info))
	}
	if err := v.ValidateAuthority(name); err != nil {
		return withCause(status.Newf(codes.Unavailable, "authority %q is not valid for the connection: %v", name, err), err)
	}
	a.authority = name
	return nil
}

func authType(info credentials.AuthInfo) string {
	if info == nil {
		return "no AuthInfo"
	}
	return info.AuthType()
}

// fromCredentials returns what the transport's and the RPC's credentials want sent, as
// pairs. Credentials run on the RPC's goroutine, for every attempt.
func (r *rpc) fromCredentials(a *attempt) (pairs []string, err error) {
	if len(a.transport.PerRPC) == 0 && r.set.creds == nil {
		return nil, nil
	}
	p := a.conn.Peer()
	ctx := peer.NewContext(a.ctx, p)
	ctx = credentials.NewContextWithRequestInfo(ctx, credentials.RequestInfo{Method: r.method, AuthInfo: p.AuthInfo})
	audience := audience(a.authority, r.method)
	for _, c := range a.transport.PerRPC {
		md, err := r.requestMetadata(ctx, a, c, p.AuthInfo, audience, codes.Unauthenticated)
		if err != nil {
			return nil, err
		}
		for k, v := range md {
			if pairs, err = setPair(pairs, 0, k, v); err != nil {
				return nil, err
			}
		}
	}
	if r.set.creds == nil {
		return pairs, nil
	}
	md, err := r.requestMetadata(ctx, a, r.set.creds, p.AuthInfo, audience, codes.Internal)
	if err != nil {
		return nil, err
	}
	first := len(pairs) // a key that the transport's credentials sent is sent again
	for k, v := range md {
		if pairs, err = setPair(pairs, first, k, v); err != nil {
			return nil, err
		}
	}
	return pairs, nil
}

// requestMetadata asks c. An error that is no status becomes one with the code otherwise.
func (r *rpc) requestMetadata(ctx context.Context, a *attempt, c credentials.PerRPCCredentials, info credentials.AuthInfo, audience string, otherwise codes.Code) (map[string]string, error) {
	if c.RequireTransportSecurity() {
		if err := credentials.CheckSecurityLevel(info, credentials.PrivacyAndIntegrity); err != nil {
			return nil, withCause(status.Newf(codes.Unauthenticated, "per-RPC credentials demand a secure connection: %v", err), err, r.ch.cfg.Hooks.Insecure)
		}
	}
	r.preparing = StageCredentials
	since := r.ch.now()
	md, err := c.GetRequestMetadata(ctx, audience)
	r.times.Preparing += r.ch.now() - since
	if err == nil {
		return md, nil
	}
	if cerr := ctx.Err(); cerr != nil && errors.Is(err, cerr) {
		return nil, r.contextEnded(ctx, cerr, StageCredentials, a, nil)
	}
	if st := controlPlaneError("per-RPC credentials", err); st != nil {
		return nil, st
	}
	return nil, withCause(status.Newf(otherwise, "per-RPC credentials failed: %v", err), err)
}

// setPair sets a key among the pairs from index first on.
func setPair(pairs []string, first int, k, v string) ([]string, error) {
	k = strings.ToLower(k)
	if err := validPair(k, v); err != nil {
		return nil, err
	}
	for i := first; i < len(pairs); i += 2 {
		if pairs[i] == k {
			pairs[i+1] = v
			return pairs, nil
		}
	}
	return append(pairs, k, v), nil
}

// audience is the URI of the service that credentials are asked for.
func audience(authority, method string) string {
	service := method
	if i := strings.LastIndexByte(method, '/'); i >= 0 {
		service = method[:i]
	}
	return "https://" + strings.TrimSuffix(authority, ":443") + service
}

// connAddr is the peer's address for messages.
func connAddr(c *h2.Conn) string {
	if c == nil {
		return ""
	}
	if p := c.Peer(); p != nil && p.Addr != nil {
		return p.Addr.String()
	}
	return ""
}
