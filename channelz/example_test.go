package channelz_test

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/channelz/service"

	"github.com/grpcdial/grpcdial/channelz"
)

func ExampleRegister() {
	s := grpc.NewServer()
	channelz.Register(s)
	// ... s.Serve(listener)
}

// A program that has channels or servers of grpc-go's too serves both.
func ExampleMerge() {
	s := grpc.NewServer()
	service.RegisterChannelzServiceToServer(channelz.Merge(s))
	// ... s.Serve(listener)
}
