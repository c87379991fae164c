package h2

import (
	"encoding/base64"
	"strings"
)

// isReserved reports whether a metadata key belongs to the protocol and is
// not the application's to send or see. grpc-previous-rpc-attempts and
// grpc-retry-pushback-ms are reserved too but travel as metadata.
func isReserved(key string) bool {
	if key == "" || key[0] == ':' {
		return true
	}
	switch key {
	case "content-type", "user-agent", "te", "grpc-message-type", "grpc-encoding",
		"grpc-message", "grpc-status", "grpc-timeout":
		return true
	}
	return false
}

func isBinary(key string) bool { return strings.HasSuffix(key, "-bin") }

// decodeBinary decodes one value of a "-bin" key, padded or not. A value may
// hold several, separated by commas (gRPC's PROTOCOL-HTTP2, "Custom-Metadata").
func decodeBinary(v string) ([]string, error) {
	var out []string
	for part := range strings.SplitSeq(v, ",") {
		part = strings.TrimRight(strings.TrimSpace(part), "=")
		b, err := base64.RawStdEncoding.DecodeString(part)
		if err != nil {
			return nil, err
		}
		out = append(out, string(b))
	}
	return out, nil
}

// decodeMessage undoes the percent-encoding of grpc-message. It never fails:
// what is no valid escape stays as it is.
func decodeMessage(s string) string {
	i := strings.IndexByte(s, '%')
	if i < 0 {
		return s
	}
	b := make([]byte, 0, len(s))
	for b = append(b, s[:i]...); i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			hi, lo := unhex(s[i+1]), unhex(s[i+2])
			if hi >= 0 && lo >= 0 {
				b = append(b, byte(hi<<4|lo))
				i += 2
				continue
			}
		}
		b = append(b, s[i])
	}
	return strings.ToValidUTF8(string(b), "\uFFFD")
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}
