package channelz_test

import (
	"net/http"

	"google.golang.org/grpc"
	"google.golang.org/grpc/channelz/service"

	"github.com/grpcdial/grpcdial/channelz"
)

func ExampleRegister() {
	s := grpc.NewServer()
	channelz.Register(s)
	// ... s.Serve(listener)
}

// The page, beside net/http/pprof's and other pages for operators.
func ExampleHandler() {
	mux := http.NewServeMux()
	mux.Handle("/debug/grpcdial", channelz.Handler())
	// ... http.ListenAndServe("localhost:6060", mux)
}

// A program that has channels or servers of grpc-go's too serves both.
func ExampleMerge() {
	s := grpc.NewServer()
	service.RegisterChannelzServiceToServer(channelz.Merge(s))
	// ... s.Serve(listener)
}
