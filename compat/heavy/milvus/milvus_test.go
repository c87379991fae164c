// Package milvus runs Milvus's client on a grpcdial channel.
package milvus

import (
	"context"
	"slices"
	"testing"

	"github.com/milvus-io/milvus-proto/go-api/v2/commonpb"
	"github.com/milvus-io/milvus-proto/go-api/v2/milvuspb"
	"github.com/milvus-io/milvus/client/v2/milvusclient"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/grpcdial/grpcdial/bridge"
	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// server is the part of a Milvus server that lists collections.
type server struct {
	milvuspb.UnimplementedMilvusServiceServer
}

func (server) Connect(context.Context, *milvuspb.ConnectRequest) (*milvuspb.ConnectResponse, error) {
	return &milvuspb.ConnectResponse{Status: new(commonpb.Status), Identifier: 7}, nil
}

func (server) ShowCollections(ctx context.Context, _ *milvuspb.ShowCollectionsRequest) (*milvuspb.ShowCollectionsResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	return &milvuspb.ShowCollectionsResponse{Status: new(commonpb.Status), CollectionNames: md.Get("identifier")}, nil
}

// TestMilvus: the client's interceptors, which it appends to the program's options, add
// what the server gave it.
func TestMilvus(t *testing.T) {
	addr, agents := backendtest.Serve(t, func(s *grpc.Server) { milvuspb.RegisterMilvusServiceServer(s, server{}) })
	ctx := backendtest.Bounded(t)
	client, err := milvusclient.New(ctx, &milvusclient.ClientConfig{Address: addr,
		DialOptions: append(slices.Clip(milvusclient.DefaultGrpcOpts), bridge.ToGRPC()...)})
	require.NoError(t, err)
	defer client.Close(ctx)
	names, err := client.ListCollections(ctx, milvusclient.NewListCollectionOption())
	require.NoError(t, err)
	assert.Equal(t, []string{"7"}, names)
	agents.AssertOurs(t, "Connect", "ShowCollections")
}
