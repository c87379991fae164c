package grpcdial

import (
	"reflect"
	"slices"
	"strings"

	"google.golang.org/grpc/resolver"
	grpcdns "google.golang.org/grpc/resolver/dns"

	"github.com/grpcdial/grpcdial/internal/dns"
)

// chooseDNS returns the builder for a target of this scheme, for which b was
// found: ours in place of grpc-go's for the scheme dns. A builder that the program
// chose, by registering it or by WithResolvers, stays.
func chooseDNS(scheme string, b resolver.Builder, o *dialOptions) resolver.Builder {
	given := slices.ContainsFunc(o.resolvers, func(b resolver.Builder) bool { return strings.EqualFold(b.Scheme(), schemeDNS) })
	if scheme != schemeDNS || given || reflect.TypeOf(b) != reflect.TypeOf(grpcdns.NewBuilder()) {
		return b
	}
	return dns.NewBuilder(dns.Config{
		MinInterval:       o.dns.MinInterval,
		Refresh:           o.dns.Refresh,
		LookupTimeout:     o.dns.Timeout,
		ServiceConfigWait: o.dns.ServiceConfigWait,
	})
}
