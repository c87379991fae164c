package bridge

import (
	"net/url"
	"slices"

	"google.golang.org/grpc/resolver"
)

// standIn is the resolver builder that grpc-go finds for the target of a connection, in
// place of the one that the channel will find.
type standIn struct{ c *connection }

func isStandIn(b resolver.Builder) bool {
	_, ok := b.(standIn)
	return ok
}

// Scheme returns the scheme of the target if there is a builder for it, and else the one
// that grpc-go falls back to. It is called when all options have been applied, and
// before grpc-go looks at what they say.
func (s standIn) Scheme() string {
	s.c.settle()
	if u, err := url.Parse(s.c.conn.Target()); err == nil && s.c.serves(u.Scheme) {
		return u.Scheme
	}
	if scheme := resolver.GetDefaultScheme(); scheme != "passthrough" {
		return scheme // the program has set one
	}
	return get[string](fieldsOf(s.c.asked), "defaultScheme")
}

// serves reports whether there is a resolver builder for scheme, the library's or a
// registered one.
func (c *connection) serves(scheme string) bool {
	return resolver.Get(scheme) != nil ||
		slices.ContainsFunc(c.builders(), func(b resolver.Builder) bool { return b.Scheme() == scheme })
}

// Build gives the connection's policy an address, which it does not use.
func (s standIn) Build(_ resolver.Target, to resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	return s, to.UpdateState(resolver.State{
		Endpoints: []resolver.Endpoint{{Addresses: []resolver.Address{{Addr: s.c.conn.Target()}}}},
	})
}

// ResolveNow does nothing.
func (s standIn) ResolveNow(resolver.ResolveNowOptions) {}

// Close does nothing.
func (s standIn) Close() {}
