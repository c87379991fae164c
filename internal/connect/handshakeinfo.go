package connect

import (
	"context"

	"google.golang.org/grpc/credentials"
)

// handshakeInfoKey is the key under which a context holds the
// credentials.ClientHandshakeInfo that transport credentials ask for, nil if the
// getter asks for none. grpc-go exports the getter only; it gives the key away to a
// context that it is called with.
var handshakeInfoKey = learnHandshakeInfoKey()

func learnHandshakeInfoKey() any {
	asked := new(keyNoted)
	credentials.ClientHandshakeInfoFromContext(asked)
	return asked.key
}

// keyNoted is a context that notes which value it was asked for last.
type keyNoted struct {
	context.Context // nil: nothing but Value is called
	key             any
}

func (c *keyNoted) Value(key any) any {
	c.key = key
	return nil
}

// withHandshakeInfo returns a context in which
// credentials.ClientHandshakeInfoFromContext finds info.
func withHandshakeInfo(ctx context.Context, info credentials.ClientHandshakeInfo) context.Context {
	if handshakeInfoKey == nil {
		return ctx
	}
	return context.WithValue(ctx, handshakeInfoKey, info)
}
