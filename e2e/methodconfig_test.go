package e2e_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// TestMethodConfigsAreFoundByName: RPCs take the entry of their method, else that
// of their service, else the one for all; entries are not merged.
func TestMethodConfigsAreFoundByName(t *testing.T) {
	entry := func(names string, responseBytes int) string {
		return fmt.Sprintf(`{"name": [%s], "maxResponseMessageBytes": %d}`, names, responseBytes)
	}
	// The reply is the backend's name, one byte long, in a message of 3.
	const enough, tooLittle = 3, 2
	method := `{"service": "test.Backend", "method": "Name"}`
	other := `{"service": "test.Backend", "method": "Other"}`
	service := `{"service": "test.Backend"}`
	tests := []struct {
		name    string
		entries []string
		fails   bool
	}{
		{"nothing", nil, false},
		{"all", []string{entry(`{}`, tooLittle)}, true},
		{"service", []string{entry(service, tooLittle)}, true},
		{"method", []string{entry(method, tooLittle)}, true},
		{"another method", []string{entry(other, tooLittle)}, false},
		{"another service", []string{entry(`{"service": "test.Back"}, {"service": "Backend"}`, tooLittle)}, false},
		{"method before service", []string{entry(service, tooLittle), entry(method, enough)}, false},
		{"service before all", []string{entry(`{}`, tooLittle), entry(service, enough)}, false},
		{"the second name of an entry", []string{entry(other+","+method, tooLittle)}, true},
		{"entries are not merged", []string{entry(service, tooLittle), `{"name": [` + method + `], "timeout": "10s"}`}, false},
	}
	b := backendtest.Start(t, "b")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cc := plain(t, b.Addr, grpcdial.WithDefaultServiceConfig(`{"methodConfig": [`+strings.Join(tt.entries, ",")+`]}`))
			_, err := backendtest.AskName(backendtest.Bounded(t), cc)
			if tt.fails {
				assert.Equal(t, codes.ResourceExhausted, status.Code(err), "%v", err)
			} else {
				assert.NoError(t, err)
			}
		})
	}
}

// TestMethodConfigInForce: each field, with and without what the RPC itself says.
func TestMethodConfigInForce(t *testing.T) {
	tests := []struct {
		name  string
		field string
		opts  []grpc.CallOption
		call  string // method
		body  string
		code  codes.Code
		text  string
	}{
		{name: "request that fits", field: `"maxRequestMessageBytes": 12`, call: "Name", body: "0123456789"},
		{name: "request too large", field: `"maxRequestMessageBytes": 11`, call: "Name", body: "0123456789", code: codes.ResourceExhausted, text: "12 vs. 11"},
		{name: "the smaller size counts: the RPC's", field: `"maxRequestMessageBytes": 100`, opts: []grpc.CallOption{grpc.MaxCallSendMsgSize(11)},
			call: "Name", body: "0123456789", code: codes.ResourceExhausted, text: "12 vs. 11"},
		{name: "the smaller size counts: the config's", field: `"maxRequestMessageBytes": 11`, opts: []grpc.CallOption{grpc.MaxCallSendMsgSize(100)},
			call: "Name", body: "0123456789", code: codes.ResourceExhausted, text: "12 vs. 11"},
		{name: "no request at all fits", field: `"maxRequestMessageBytes": 0`, call: "Name", body: "x", code: codes.ResourceExhausted},
		{name: "response too large", field: `"maxResponseMessageBytes": 2`, call: "Name", code: codes.ResourceExhausted, text: "3 vs. 2"},
		{name: "timeout", field: `"timeout": "0.05s"`, call: "Hold", code: codes.DeadlineExceeded, text: "sent, waiting for"},
		{name: "timeout that is over", field: `"timeout": "0s"`, call: "Name", code: codes.DeadlineExceeded},
	}
	b := backendtest.Start(t, "b")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cc := plain(t, b.Addr, grpcdial.WithDefaultServiceConfig(`{"methodConfig": [{"name": [{}], `+tt.field+`}]}`))
			awaitReady(t, cc)
			err := cc.Invoke(backendtest.Bounded(t), "/test.Backend/"+tt.call, wrapperspb.String(tt.body), new(wrapperspb.StringValue), tt.opts...)
			assert.Equal(t, tt.code, status.Code(err), "%v", err)
			if tt.text != "" {
				assert.ErrorContains(t, err, tt.text)
			}
		})
	}
}

// TestWaitForReadyOfMethodConfig: it is the default, and the RPC has the last word.
func TestWaitForReadyOfMethodConfig(t *testing.T) {
	b := backendtest.Start(t, "b")
	b.Stop()
	cc := plain(t, b.Addr, fastBackoff(), grpcdial.WithDefaultServiceConfig(`{"methodConfig": [{"name": [{}], "waitForReady": true}]}`))
	cc.Connect()
	awaitState(t, cc, connectivity.TransientFailure)
	_, err := backendtest.AskName(backendtest.Bounded(t), cc, grpc.WaitForReady(false))
	assert.Equal(t, codes.Unavailable, status.Code(err))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = backendtest.AskName(ctx, cc)
	require.Equal(t, codes.DeadlineExceeded, status.Code(err), "it waits")
	b.Start()
	_, err = backendtest.AskName(backendtest.Bounded(t), cc)
	assert.NoError(t, err)
}
