package libraries

import (
	"context"
	"io"
	"net"
	"strconv"
	"testing"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/authzed-go/v1"
	"github.com/qdrant/go-client/qdrant"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/bridge"
	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// vectors is the part of a Qdrant server that lists collections for clients that send
// its key.
type vectors struct {
	qdrant.UnimplementedCollectionsServer
	qdrant.UnimplementedQdrantServer
}

func (vectors) HealthCheck(context.Context, *qdrant.HealthCheckRequest) (*qdrant.HealthCheckReply, error) {
	return &qdrant.HealthCheckReply{Title: "qdrant", Version: "1.17.0"}, nil
}

func (vectors) List(ctx context.Context, _ *qdrant.ListCollectionsRequest) (*qdrant.ListCollectionsResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	if key := md.Get("api-key"); len(key) != 1 || key[0] != "key" {
		return nil, status.Error(codes.Unauthenticated, "no key")
	}
	return &qdrant.ListCollectionsResponse{Collections: []*qdrant.CollectionDescription{{Name: "books"}}}, nil
}

// TestQdrant: the client's key goes along, as an interceptor of its own adds it.
func TestQdrant(t *testing.T) {
	addr, agents := backendtest.Serve(t, func(s *grpc.Server) {
		qdrant.RegisterCollectionsServer(s, vectors{})
		qdrant.RegisterQdrantServer(s, vectors{})
	})
	host, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	number, err := strconv.Atoi(port)
	require.NoError(t, err)
	client, err := qdrant.NewClient(&qdrant.Config{Host: host, Port: number, APIKey: "key", GrpcOptions: bridge.ToGRPC()})
	require.NoError(t, err)
	names, err := client.ListCollections(backendtest.Bounded(t))
	require.NoError(t, err)
	assert.Equal(t, []string{"books"}, names)
	require.NoError(t, client.Close())

	cc := dial(t, addr)
	given := qdrant.NewGrpcClientFromConn(cc.GRPC())
	_, err = given.Collections().List(backendtest.Bounded(t), new(qdrant.ListCollectionsRequest))
	assert.Equal(t, codes.Unauthenticated, status.Code(err), "an interceptor of the library's is not there then")
	require.NoError(t, given.Close())
	agents.AssertOurs(t, "Collections/List", "Qdrant/HealthCheck")
}

// permissions is the part of a SpiceDB server that knows one permission.
type permissions struct {
	v1.UnimplementedPermissionsServiceServer
}

func (permissions) CheckPermission(_ context.Context, r *v1.CheckPermissionRequest) (*v1.CheckPermissionResponse, error) {
	reply := &v1.CheckPermissionResponse{Permissionship: v1.CheckPermissionResponse_PERMISSIONSHIP_NO_PERMISSION}
	if r.Permission == "read" {
		reply.Permissionship = v1.CheckPermissionResponse_PERMISSIONSHIP_HAS_PERMISSION
	}
	return reply, nil
}

func (permissions) ReadRelationships(_ *v1.ReadRelationshipsRequest, s v1.PermissionsService_ReadRelationshipsServer) error {
	for range 3 {
		if err := s.Send(new(v1.ReadRelationshipsResponse)); err != nil {
			return err
		}
	}
	return nil
}

// TestAuthzed: a permission is checked, and relationships are streamed.
func TestAuthzed(t *testing.T) {
	addr, agents := backendtest.Serve(t, func(s *grpc.Server) { v1.RegisterPermissionsServiceServer(s, permissions{}) })
	client, err := authzed.NewClient(addr, append(bridge.ToGRPC(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	require.NoError(t, err)
	defer client.Close()
	who := &v1.SubjectReference{Object: &v1.ObjectReference{ObjectType: "user", ObjectId: "me"}}
	reply, err := client.CheckPermission(backendtest.Bounded(t), &v1.CheckPermissionRequest{
		Resource: &v1.ObjectReference{ObjectType: "book", ObjectId: "1"}, Permission: "read", Subject: who})
	require.NoError(t, err)
	assert.Equal(t, v1.CheckPermissionResponse_PERMISSIONSHIP_HAS_PERMISSION, reply.Permissionship)
	stream, err := client.ReadRelationships(backendtest.Bounded(t), &v1.ReadRelationshipsRequest{RelationshipFilter: &v1.RelationshipFilter{ResourceType: "book"}})
	require.NoError(t, err)
	for range 3 {
		_, err = stream.Recv()
		require.NoError(t, err)
	}
	_, err = stream.Recv()
	require.Equal(t, io.EOF, err)
	agents.AssertOurs(t, "CheckPermission", "ReadRelationships")
}
