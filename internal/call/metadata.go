package call

import (
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// validMetadata checks what is to be sent, as gRPC's PROTOCOL-HTTP2 document defines
// Custom-Metadata. The error is a status error with code Internal.
func validMetadata(md metadata.MD) error {
	for k, values := range md {
		if err := validKey(k); err != nil {
			return err
		}
		for _, v := range values {
			if err := validValue(k, v); err != nil {
				return err
			}
		}
	}
	return nil
}

func validPair(k, v string) error {
	if err := validKey(k); err != nil {
		return err
	}
	return validValue(k, v)
}

// validKey lets pseudo-headers pass: they are not sent.
func validKey(k string) error {
	if k == "" {
		return status.Error(codes.Internal, "outgoing metadata has an empty key")
	}
	if k[0] == ':' {
		return nil
	}
	for i := 0; i < len(k); i++ {
		switch c := k[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '.', c == '-', c == '_':
		default:
			return status.Errorf(codes.Internal, "outgoing metadata key %q has characters other than 0-9, a-z, '-', '_' and '.'", k)
		}
	}
	return nil
}

// validValue wants printable ASCII; the values of "-bin" keys are any bytes.
func validValue(k, v string) error {
	if strings.HasSuffix(k, "-bin") {
		return nil
	}
	for i := 0; i < len(v); i++ {
		if v[i] < ' ' || v[i] > '~' {
			return status.Errorf(codes.Internal, "the value of outgoing metadata key %q has characters that are not printable ASCII", k)
		}
	}
	return nil
}
