// Package cloud runs clients of Google Cloud on grpcdial channels, against the fake
// servers that come with them.
package cloud

import (
	"context"
	"testing"

	"cloud.google.com/go/bigtable"
	"cloud.google.com/go/bigtable/bttest"
	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"cloud.google.com/go/pubsub/v2/pstest"
	"cloud.google.com/go/spanner"
	database "cloud.google.com/go/spanner/admin/database/apiv1"
	"cloud.google.com/go/spanner/admin/database/apiv1/databasepb"
	"cloud.google.com/go/spanner/spannertest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/bridge"
	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// doors are the two ways onto a grpcdial channel that Google's clients have.
func doors(t *testing.T, addr string) map[string][]option.ClientOption {
	t.Helper()
	cc, err := grpcdial.NewClient(addr, grpcdial.WithInsecure())
	require.NoError(t, err)
	t.Cleanup(func() { _ = cc.Close() })
	dials := []option.ClientOption{option.WithEndpoint(addr), option.WithoutAuthentication(),
		option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials()))}
	for _, opt := range bridge.ToGRPC() {
		dials = append(dials, option.WithGRPCDialOption(opt))
	}
	return map[string][]option.ClientOption{
		"WithGRPCConn":       {option.WithGRPCConn(cc.GRPC()), option.WithoutAuthentication()},
		"WithGRPCDialOption": dials,
	}
}

// TestPubSub: messages are published and received.
func TestPubSub(t *testing.T) {
	for _, name := range []string{"WithGRPCConn", "WithGRPCDialOption"} {
		t.Run(name, func(t *testing.T) {
			server := pstest.NewServer()
			defer server.Close()
			addr, agents := backendtest.Relay(t, server.Addr)
			ctx, cancel := context.WithCancel(backendtest.Bounded(t))
			defer cancel()
			client, err := pubsub.NewClient(ctx, "project", doors(t, addr)[name]...)
			require.NoError(t, err)
			defer client.Close()
			topic := &pubsubpb.Topic{Name: "projects/project/topics/t"}
			_, err = client.TopicAdminClient.CreateTopic(ctx, topic)
			require.NoError(t, err)
			subscription := &pubsubpb.Subscription{Name: "projects/project/subscriptions/s", Topic: topic.Name}
			_, err = client.SubscriptionAdminClient.CreateSubscription(ctx, subscription)
			require.NoError(t, err)

			publisher := client.Publisher("t")
			defer publisher.Stop()
			for range 10 {
				_, err = publisher.Publish(ctx, &pubsub.Message{Data: []byte("hello")}).Get(ctx)
				require.NoError(t, err)
			}
			received := make(chan string, 100)
			ended := make(chan error, 1)
			go func() {
				ended <- client.Subscriber("s").Receive(ctx, func(_ context.Context, m *pubsub.Message) {
					m.Ack()
					received <- string(m.Data)
				})
			}()
			for range 10 {
				assert.Equal(t, "hello", <-received)
			}
			cancel()
			require.NoError(t, <-ended)
			agents.AssertOurs(t, "Publisher/CreateTopic", "Publisher/Publish", "Subscriber/StreamingPull")
		})
	}
}

// TestBigtable: a row is written and read.
func TestBigtable(t *testing.T) {
	agents := new(backendtest.Agents)
	server, err := bttest.NewServer("127.0.0.1:0", agents.Option())
	require.NoError(t, err)
	defer server.Close()
	ctx := backendtest.Bounded(t)
	admin, err := bigtable.NewAdminClient(ctx, "project", "instance", doors(t, server.Addr)["WithGRPCConn"]...)
	require.NoError(t, err)
	defer admin.Close()
	require.NoError(t, admin.CreateTable(ctx, "table"))
	require.NoError(t, admin.CreateColumnFamily(ctx, "table", "family"))
	for name, opts := range doors(t, server.Addr) {
		t.Run(name, func(t *testing.T) {
			client, err := bigtable.NewClientWithConfig(ctx, "project", "instance", bigtable.ClientConfig{MetricsProvider: bigtable.NoopMetricsProvider{}}, opts...)
			require.NoError(t, err)
			defer client.Close()
			table := client.Open("table")
			write := bigtable.NewMutation()
			write.Set("family", "column", bigtable.Now(), []byte("value"))
			require.NoError(t, table.Apply(ctx, "row", write))
			row, err := table.ReadRow(ctx, "row")
			require.NoError(t, err)
			require.NotEmpty(t, row["family"])
			assert.Equal(t, "value", string(row["family"][0].Value))
		})
	}
	agents.AssertOurs(t, "CreateTable", "MutateRow", "ReadRows")
}

// TestSpanner: a row is written and read.
func TestSpanner(t *testing.T) {
	const name = "projects/p/instances/i/databases/d"
	server, err := spannertest.NewServer("127.0.0.1:0")
	require.NoError(t, err)
	defer server.Close()
	addr, agents := backendtest.Relay(t, server.Addr)
	ctx := backendtest.Bounded(t)
	admin, err := database.NewDatabaseAdminClient(ctx, doors(t, addr)["WithGRPCConn"]...)
	require.NoError(t, err)
	defer admin.Close()
	op, err := admin.UpdateDatabaseDdl(ctx, &databasepb.UpdateDatabaseDdlRequest{Database: name,
		Statements: []string{"CREATE TABLE Books (ID INT64, Title STRING(100)) PRIMARY KEY (ID)"}})
	require.NoError(t, err)
	require.NoError(t, op.Wait(ctx))
	for door, opts := range doors(t, addr) {
		t.Run(door, func(t *testing.T) {
			client, err := spanner.NewClientWithConfig(ctx, name, spanner.ClientConfig{DisableNativeMetrics: true}, opts...)
			require.NoError(t, err)
			defer client.Close()
			_, err = client.Apply(ctx, []*spanner.Mutation{spanner.InsertOrUpdate("Books", []string{"ID", "Title"}, []any{1, door})})
			require.NoError(t, err)
			row, err := client.Single().ReadRow(ctx, "Books", spanner.Key{1}, []string{"Title"})
			require.NoError(t, err)
			var title string
			require.NoError(t, row.Columns(&title))
			assert.Equal(t, door, title)
		})
	}
	agents.AssertOurs(t, "UpdateDatabaseDdl", "Commit", "StreamingRead")
}
