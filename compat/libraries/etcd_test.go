package libraries

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/grpcdial/grpcdial/bridge"
	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// etcd is the part of an etcd server that keeps keys for clients that log in.
type etcd struct {
	etcdserverpb.UnimplementedKVServer
	etcdserverpb.UnimplementedAuthServer
	etcdserverpb.UnimplementedWatchServer

	mu     sync.Mutex
	token  string            // guarded by mu: the one that is valid
	logins int               // guarded by mu
	keys   map[string]string // guarded by mu

	puts chan *mvccpb.Event
}

// allow checks the token of an RPC.
func (s *etcd) allow(ctx context.Context) error {
	md, _ := metadata.FromIncomingContext(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if got := md.Get(rpctypes.TokenFieldNameGRPC); len(got) != 1 || got[0] != s.token {
		return rpctypes.ErrGRPCInvalidAuthToken
	}
	return nil
}

func (s *etcd) Authenticate(_ context.Context, r *etcdserverpb.AuthenticateRequest) (*etcdserverpb.AuthenticateResponse, error) {
	if r.Name != "user" || r.Password != "password" {
		return nil, rpctypes.ErrGRPCAuthFailed
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.logins++
	return &etcdserverpb.AuthenticateResponse{Token: s.token}, nil
}

func (s *etcd) Put(ctx context.Context, r *etcdserverpb.PutRequest) (*etcdserverpb.PutResponse, error) {
	if err := s.allow(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.keys[string(r.Key)] = string(r.Value)
	s.mu.Unlock()
	s.puts <- &mvccpb.Event{Kv: &mvccpb.KeyValue{Key: r.Key, Value: r.Value}}
	return &etcdserverpb.PutResponse{Header: new(etcdserverpb.ResponseHeader)}, nil
}

func (s *etcd) Range(ctx context.Context, r *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
	if err := s.allow(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	reply := &etcdserverpb.RangeResponse{Header: new(etcdserverpb.ResponseHeader)}
	if v, ok := s.keys[string(r.Key)]; ok {
		reply.Kvs = []*mvccpb.KeyValue{{Key: r.Key, Value: []byte(v)}}
		reply.Count = 1
	}
	return reply, nil
}

func (s *etcd) Watch(stream etcdserverpb.Watch_WatchServer) error {
	if err := s.allow(stream.Context()); err != nil {
		return err
	}
	if _, err := stream.Recv(); err != nil {
		return err
	}
	if err := stream.Send(&etcdserverpb.WatchResponse{Header: new(etcdserverpb.ResponseHeader), Created: true}); err != nil {
		return err
	}
	for {
		select {
		case e := <-s.puts:
			if err := stream.Send(&etcdserverpb.WatchResponse{Header: new(etcdserverpb.ResponseHeader), Events: []*mvccpb.Event{e}}); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

func startEtcd(t *testing.T) (*etcd, string, *backendtest.Agents) {
	t.Helper()
	s := &etcd{token: "first", keys: map[string]string{}, puts: make(chan *mvccpb.Event, 10)}
	addr, agents := backendtest.Serve(t, func(g *grpc.Server) {
		etcdserverpb.RegisterKVServer(g, s)
		etcdserverpb.RegisterAuthServer(g, s)
		etcdserverpb.RegisterWatchServer(g, s)
	})
	return s, addr, agents
}

// TestEtcd: etcd's client logs in, keeps a key, watches it, and logs in again when its
// token is not valid any more. One of its endpoints is down.
func TestEtcd(t *testing.T) {
	s, addr, agents := startEtcd(t)
	client, err := clientv3.New(clientv3.Config{
		Endpoints: []string{backendtest.UnusedAddr(t), addr}, Username: "user", Password: "password",
		DialTimeout: time.Minute, DialOptions: bridge.ToGRPC(),
	})
	require.NoError(t, err)
	defer client.Close()
	ctx := backendtest.Bounded(t)

	watched := client.Watch(ctx, "key", clientv3.WithCreatedNotify())
	require.True(t, (<-watched).Created)
	_, err = client.Put(ctx, "key", "value")
	require.NoError(t, err)
	got, err := client.Get(ctx, "key")
	require.NoError(t, err)
	require.Len(t, got.Kvs, 1)
	assert.Equal(t, "value", string(got.Kvs[0].Value))
	event := <-watched
	require.Len(t, event.Events, 1)
	assert.Equal(t, "value", string(event.Events[0].Kv.Value))

	s.mu.Lock()
	s.token = "second"
	logins := s.logins
	s.mu.Unlock()
	_, err = client.Get(ctx, "key")
	require.NoError(t, err)
	s.mu.Lock()
	assert.Equal(t, logins+1, s.logins)
	s.mu.Unlock()
	agents.AssertOurs(t, "Auth/Authenticate", "KV/Put", "KV/Range", "Watch/Watch")
}

// TestEtcdWrongPassword: New fails with etcd's own error.
func TestEtcdWrongPassword(t *testing.T) {
	_, addr, _ := startEtcd(t)
	_, err := clientv3.New(clientv3.Config{Endpoints: []string{addr}, Username: "user", Password: "wrong",
		DialTimeout: time.Minute, DialOptions: bridge.ToGRPC()})
	require.ErrorIs(t, err, rpctypes.ErrAuthFailed)
}
