package backendtest

import (
	"errors"

	"google.golang.org/grpc/resolver"
)

// ReportError is for manual.Resolver.BuildCallback: the resolver fails at once.
func ReportError(_ resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) {
	cc.ReportError(errors.New("no zone"))
}

// Scripted is a resolver builder and the resolvers that it builds.
type Scripted struct {
	OnBuild      func(cc resolver.ClientConn, opts resolver.BuildOptions) error
	OnResolveNow func(cc resolver.ClientConn)
	OnClose      func(cc resolver.ClientConn)
}

func (Scripted) Scheme() string { return "scripted" }

func (s Scripted) Build(_ resolver.Target, cc resolver.ClientConn, opts resolver.BuildOptions) (resolver.Resolver, error) {
	if s.OnBuild != nil {
		if err := s.OnBuild(cc, opts); err != nil {
			return nil, err
		}
	}
	return scriptedResolver{s, cc}, nil
}

type scriptedResolver struct {
	Scripted
	cc resolver.ClientConn
}

func (r scriptedResolver) ResolveNow(resolver.ResolveNowOptions) {
	if r.OnResolveNow != nil {
		r.OnResolveNow(r.cc)
	}
}

func (r scriptedResolver) Close() {
	if r.OnClose != nil {
		r.OnClose(r.cc)
	}
}
