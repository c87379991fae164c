package xds

import (
	"context"
	"reflect"
	"sync/atomic"

	"google.golang.org/grpc/metadata"
)

// extraKey is the key under which grpc-go's config selectors look for the headers of an
// RPC that are not the program's: content-type, which routes may match and hash by (gRFC
// A28). grpc-go does not export it. It is known by its type when it is first used.
var extraKey atomic.Value

// extra is what is found under it. It is never changed.
var extra = metadata.Pairs("content-type", "application/grpc")

// extraContext is an RPC's context with extra in it.
type extraContext struct{ context.Context }

func (c extraContext) Value(key any) any {
	if known := extraKey.Load(); known != nil {
		if key == known {
			return extra
		}
	} else if t := reflect.TypeOf(key); t != nil && t.Name() == "mdExtraKey" && t.PkgPath() == "google.golang.org/grpc/internal/grpcutil" {
		extraKey.Store(key)
		return extra
	}
	return c.Context.Value(key)
}
