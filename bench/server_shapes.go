package main

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	metadataName = "metadata" // a call of this name is answered with metadata
	statusName   = "status"   // one of this name fails
)

// tenEntries are metadata that are always the same.
var tenEntries = func() metadata.MD {
	md := metadata.MD{}
	for i := range 10 {
		md.Set(fmt.Sprintf("x-entry-%d", i), fmt.Sprintf("the value of entry %d", i))
	}
	return md
}()

// notFound has details of 1 kB.
var notFound = func() error {
	s, err := status.New(codes.NotFound, "there is no such thing").WithDetails(wrapperspb.Bytes(newBody(1 << 10)))
	if err != nil {
		panic(err)
	}
	return s.Err()
}()

// answer is the server's side of these.
func answer(ctx context.Context, name string) error {
	switch name {
	case metadataName:
		if err := grpc.SetHeader(ctx, tenEntries); err != nil {
			return err
		}
		return grpc.SetTrailer(ctx, tenEntries)
	case statusName:
		return notFound
	}
	return nil
}
