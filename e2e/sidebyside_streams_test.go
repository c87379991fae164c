package e2e_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// step is what a program does with a stream.
type step struct {
	name string
	do   func(*stage, grpc.ClientStream)
}

var (
	sends = step{"Send", func(st *stage, cs grpc.ClientStream) {
		st.note("SendMsg: %s", shown(cs.SendMsg(wrapperspb.String("hello"))))
	}}
	sendsNil   = step{"Send(nil)", func(st *stage, cs grpc.ClientStream) { st.note("SendMsg(nil): %s", shown(cs.SendMsg(nil))) }}
	sendsWrong = step{"Send(wrong)", func(st *stage, cs grpc.ClientStream) { st.note("SendMsg(7): %s", shown(cs.SendMsg(7))) }}
	closesSend = step{"CloseSend", func(st *stage, cs grpc.ClientStream) { st.note("CloseSend: %s", shown(cs.CloseSend())) }}
	receives   = step{"Recv", func(st *stage, cs grpc.ClientStream) {
		reply := new(wrapperspb.StringValue)
		err := cs.RecvMsg(reply)
		st.note("RecvMsg: %s, %q", shown(err), reply.Value)
	}}
	header = step{"Header", func(st *stage, cs grpc.ClientStream) {
		md, err := cs.Header()
		st.note("Header: %s %s", shownMD(md), shown(err))
	}}
	trailer = step{"Trailer", func(st *stage, cs grpc.ClientStream) { st.note("Trailer: %s", shownMD(cs.Trailer())) }}
	ctxOf   = step{"Context", func(st *stage, cs grpc.ClientStream) { st.note("Context: %v", cs.Context().Err()) }}
)

// TestStreamStepsSideBySide: what each method of a stream returns, whatever
// order they are called in.
func TestStreamStepsSideBySide(t *testing.T) {
	type steps = []step
	var scenarios []scenario
	for _, tt := range []struct {
		method string
		steps  steps
		only   string // kind; "": all
		reset  bool   // the client ends the RPC
	}{
		{"/t/Echo", steps{sends, receives, sends, receives, closesSend, receives, receives, trailer, header, ctxOf}, "bidi", false},
		{"/t/Echo", steps{header, sends, receives, trailer, closesSend, receives, trailer, header}, "bidi", false},
		{"/t/Echo", steps{closesSend, closesSend, receives, receives, closesSend, trailer}, "", false},

		{"/t/Echo", steps{sendsNil, closesSend, receives, receives, trailer}, "", false},
		{"/t/Echo", steps{ctxOf, sends, closesSend, receives, receives, ctxOf}, "", false},
		{"/t/Fail", steps{sends, closesSend, header, receives, receives, trailer, header, ctxOf}, "", false},
		{"/t/Fail", steps{sends, closesSend, receives, receives, header, trailer, ctxOf}, "", false},
		{"/t/Reject", steps{header, sends, closesSend, receives, receives, trailer, header, sends}, "", false},
		{"/t/Reject", steps{receives, sends, closesSend, receives, trailer}, "", false},
		{"/t/Silent", steps{sendsWrong, trailer, header, closesSend}, "", true},
		{"/t/Silent", steps{sends, closesSend, sends, receives, trailer, header}, "", true},
	} {
		for _, kind := range slices.Sorted(maps.Keys(kinds)) {
			if tt.only != "" && kind != tt.only {
				continue
			}
			var names []string
			for _, s := range tt.steps {
				names = append(names, s.name)
			}
			scenarios = append(scenarios, scenario{
				name:       fmt.Sprintf("%s %s: %s", kind, tt.method, strings.Join(names, ", ")),
				uncompared: tt.reset,
				act: func(st *stage) {
					n := newNoted()
					cs := st.open(st.context(), kinds[kind], tt.method, n.options()...)
					for _, s := range tt.steps {
						s.do(st, cs)
					}
					n.show(st)
					if tt.reset {
						st.awaitReset(1)
					}
				},
			})
		}
	}
	playWithBridge(t, scenarios)
}
