package h2test_test

import (
	"context"
	"io"
	"testing"

	"github.com/grpcdial/grpcdial/internal/h2test"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func TestConnAgainstFramer(t *testing.T) {
	client, conn := h2test.Pipe(t)
	fr := http2.NewFramer(client, client)
	_, err := io.WriteString(client, http2.ClientPreface)
	noError(t, err)
	noError(t, fr.WriteSettings(h2test.InitialWindowSize(1<<20)))
	noError(t, fr.WriteWindowUpdate(0, 1000))
	noError(t, fr.WriteSettingsAck())
	s := conn.Handshake(h2test.MaxConcurrentStreams(3))
	if v, _ := s.Setting(http2.SettingInitialWindowSize); v != 1<<20 {
		t.Errorf("initial window %d", v)
	}
	equal(t, 1000, conn.ExpectWindowUpdate(0))
}

func TestConnAgainstGRPC(t *testing.T) {
	srv := h2test.Listen(t)
	cc, err := grpc.NewClient(srv.Target(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	noError(t, err)
	defer cc.Close()

	reply := new(wrapperspb.StringValue)
	result := make(chan error, 1)
	invoke := func(method string) {
		result <- cc.Invoke(context.Background(), method, wrapperspb.String("hello"), reply)
	}
	go invoke("/test.Service/Echo")
	conn := srv.Accept()
	conn.Handshake()
	conn.Skip(h2test.WindowUpdates, h2test.Pings)
	headers, payload := conn.ExpectUnary()
	equal(t, "/test.Service/Echo", headers.Field(":path"))
	conn.ReplyUnary(headers.StreamID, payload)
	noError(t, <-result)
	equal(t, "hello", reply.Value)

	go invoke("/test.Service/Fail")
	headers, _ = conn.ExpectUnary()
	conn.TrailersOnly(headers.StreamID, codes.NotFound, "nothing here: 100%")
	err = <-result
	equal(t, codes.NotFound, status.Code(err))
	equal(t, "nothing here: 100%", status.Convert(err).Message())
}

func noError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal[T comparable](t *testing.T, want, got T) {
	t.Helper()
	if want != got {
		t.Fatalf("want %v, got %v", want, got)
	}
}
