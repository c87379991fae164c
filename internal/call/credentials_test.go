package call

import "context"

// token is a credential that needs no secure connection.
type token string

func (c token) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": string(c)}, nil
}

func (token) RequireTransportSecurity() bool { return false }
