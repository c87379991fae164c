package main

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial"
)

// A server's reply may be reported before the request is noted as handed over. The phases are
// the same then.
func TestReplyOvertakesRequest(t *testing.T) {
	refused := status.Error(codes.NotFound, "gone")
	for name, events := range map[string][]stats.RPCStats{
		"headers":       {&stats.InHeader{}, &stats.OutPayload{}, &stats.InTrailer{}, &stats.End{Error: refused}},
		"trailers only": {&stats.InTrailer{}, &stats.End{Error: refused}, &stats.OutPayload{}},
		"in order":      {&stats.OutPayload{}, &stats.InTrailer{}, &stats.End{Error: refused}},
	} {
		t.Run(name, func(t *testing.T) {
			r := &rpcSteps{tl: new(timeline), method: "/s/M"}
			ctx := r.TagRPC(context.Background(), &stats.RPCTagInfo{FullMethodName: "/s/M"})
			r.HandleRPC(ctx, &stats.Begin{})
			for _, e := range events {
				r.HandleRPC(ctx, e)
			}
			want := []grpcdial.Phase{phaseSend, phaseWait}
			if name == "headers" {
				want = append(want, phaseReceive)
			}
			var got []grpcdial.Phase
			for i, s := range r.tl.steps {
				got = append(got, s.phase)
				require.Equal(t, i == len(want)-1, s.err != nil, "the last one fails")
			}
			require.Equal(t, want, got)
		})
	}
}
