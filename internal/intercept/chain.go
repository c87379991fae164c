// Package intercept chains interceptors.
package intercept

import (
	"context"

	"google.golang.org/grpc"
)

// Unary returns the invoker that calls interceptors in order, each with the invoker of
// the next one, and last at the end.
func Unary(interceptors []grpc.UnaryClientInterceptor, last grpc.UnaryInvoker) grpc.UnaryInvoker {
	next := last
	for i := len(interceptors) - 1; i >= 0; i-- {
		interceptor, inner := interceptors[i], next
		next = func(ctx context.Context, method string, args, reply any, cc *grpc.ClientConn, opts ...grpc.CallOption) error {
			return interceptor(ctx, method, args, reply, cc, inner, opts...)
		}
	}
	return next
}

// Stream is Unary for streams.
func Stream(interceptors []grpc.StreamClientInterceptor, last grpc.Streamer) grpc.Streamer {
	next := last
	for i := len(interceptors) - 1; i >= 0; i-- {
		interceptor, inner := interceptors[i], next
		next = func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			return interceptor(ctx, desc, cc, method, inner, opts...)
		}
	}
	return next
}
