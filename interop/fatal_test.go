package interop

import (
	"context"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/grpclog"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
)

// fatal is what a failing case panics with.
type fatal string

// panicLogger turns the logger.Fatal by which the cases report a failure into
// a panic on the case's goroutine; grpc-go's own logger would end the process.
// It has no Depth methods on purpose: grpclog then falls back to Fatalln.
type panicLogger struct{ grpclog.LoggerV2 }

func (panicLogger) Fatal(args ...any)                 { panic(fatal(fmt.Sprint(args...))) }
func (panicLogger) Fatalln(args ...any)               { panic(fatal(fmt.Sprintln(args...))) }
func (panicLogger) Fatalf(format string, args ...any) { panic(fatal(fmt.Sprintf(format, args...))) }

func TestMain(m *testing.M) {
	grpclog.SetLoggerV2(panicLogger{grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard)})
	os.Exit(m.Run())
}

// failure runs f and returns the text that it failed with, or "" if it
// succeeded. A panic that is not a case's failure goes on.
func failure(f func()) (text string) {
	defer func() {
		switch v := recover().(type) {
		case nil:
		case fatal:
			text = "failed: " + string(v) // not empty, whatever v is
		default:
			panic(v)
		}
	}()
	f()
	return ""
}

// A case that fails must be reported as a failure and not end the process, or
// the rest of this package would prove nothing.
func TestFailingCaseIsReported(t *testing.T) {
	cc, err := grpc.NewClient("passthrough:///127.0.0.1:1", grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer cc.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	got := failure(func() { interop.DoEmptyUnaryCall(ctx, testgrpc.NewTestServiceClient(cc)) })
	require.Contains(t, got, "/TestService/EmptyCall RPC failed")
	require.Empty(t, failure(func() {}))
}
