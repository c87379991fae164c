package libraries

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"google.golang.org/grpc"

	"github.com/grpcdial/grpcdial/bridge"
	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// workflows is the part of a Temporal server that starts workflows, and is not available
// every other time.
type workflows struct {
	workflowservice.UnimplementedWorkflowServiceServer
	calls atomic.Int64 // of StartWorkflowExecution
}

func (*workflows) GetSystemInfo(context.Context, *workflowservice.GetSystemInfoRequest) (*workflowservice.GetSystemInfoResponse, error) {
	return &workflowservice.GetSystemInfoResponse{Capabilities: new(workflowservice.GetSystemInfoResponse_Capabilities)}, nil
}

func (w *workflows) StartWorkflowExecution(_ context.Context, r *workflowservice.StartWorkflowExecutionRequest) (*workflowservice.StartWorkflowExecutionResponse, error) {
	if w.calls.Add(1)%2 == 1 {
		return nil, serviceerror.NewUnavailable("every other time")
	}
	return &workflowservice.StartWorkflowExecutionResponse{RunId: "run of " + r.WorkflowId, Started: true}, nil
}

func (*workflows) DescribeWorkflowExecution(context.Context, *workflowservice.DescribeWorkflowExecutionRequest) (*workflowservice.DescribeWorkflowExecutionResponse, error) {
	return nil, serviceerror.NewNotFound("no such workflow")
}

// TestTemporal: a workflow is started, with a retry of the SDK's, and the service's errors
// are those of the SDK. Two clients share a connection, as the SDK has it.
func TestTemporal(t *testing.T) {
	server := new(workflows)
	addr, agents := backendtest.Serve(t, func(s *grpc.Server) { workflowservice.RegisterWorkflowServiceServer(s, server) },
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			reply, err := handler(ctx, req)
			return reply, serviceerror.ToStatus(err).Err()
		}))
	ctx := backendtest.Bounded(t)
	options := client.Options{HostPort: addr, ConnectionOptions: client.ConnectionOptions{DialOptions: bridge.ToGRPC()}}
	c, err := client.DialContext(ctx, options)
	require.NoError(t, err)
	defer c.Close()
	run, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: "w", TaskQueue: "q"}, "Workflow")
	require.NoError(t, err)
	assert.Equal(t, "run of w", run.GetRunID())
	assert.EqualValues(t, 2, server.calls.Load())
	_, err = c.DescribeWorkflowExecution(ctx, "w", "")
	var missing *serviceerror.NotFound
	require.ErrorAs(t, err, &missing)

	second, err := client.NewClientFromExisting(c, client.Options{Namespace: "other"})
	require.NoError(t, err)
	defer second.Close()
	_, err = second.DescribeWorkflowExecution(ctx, "w", "")
	require.ErrorAs(t, err, &missing)
	agents.AssertOurs(t, "GetSystemInfo", "StartWorkflowExecution", "DescribeWorkflowExecution")
}
