package dns

import (
	"context"
	"testing"

	"github.com/grpcdial/grpcdial/internal/dnstest"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

func TestMain(m *testing.M) {
	// Package net makes a channel with its first look-up, which must not belong
	// to a bubble of testing/synctest.
	s := dnstest.New(dnstest.Zone{"first.test": {Addrs: []string{"192.0.2.1"}}})
	_, _ = s.OverPipes().LookupHost(context.Background(), "first.test")
	s.Close()
	h2test.VerifyNoLeaks(m)
}
