package call

import (
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// Where a server puts the load report of an RPC (gRFC A51), and the message that
// it is.
const (
	loadReportKey  = "endpoint-load-metrics-bin"
	loadReportName = protoreflect.FullName("xds.data.orca.v3.OrcaLoadReport")
)

// ServerLoad returns the load report in an RPC's trailers, for the policy's Done
// (balancer.DoneInfo.ServerLoad): an *OrcaLoadReport of package
// github.com/cncf/xds/go/xds/data/orca/v3. nil: there is none, or none that can be
// read.
//
// The message is found in the registry of the program, so that the library does not
// depend on that package. A policy that looks at reports has it linked in; without
// one nothing reads them.
func ServerLoad(trailer metadata.MD) any {
	reports := trailer[loadReportKey]
	if len(reports) != 1 {
		return nil
	}
	known, err := protoregistry.GlobalTypes.FindMessageByName(loadReportName)
	if err != nil {
		return nil
	}
	report := known.New().Interface()
	if proto.Unmarshal([]byte(reports[0]), report) != nil {
		return nil
	}
	return report
}
