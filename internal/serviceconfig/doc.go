// Package serviceconfig turns a service config, the JSON text that a name
// resolver or a user hands to a channel, into plain data: the load balancing
// policy, what is configured per method, retry throttling and health checking.
//
// # Specification
//
//   - The service config document (grpc/grpc doc/service_config.md) and its
//     schema, service_config.proto: the fields and, since the text is the JSON
//     form of that message, protobuf's JSON mapping for durations and numbers.
//   - gRFC A2, service config in DNS: a config is taken whole or not at all.
//     One bad field makes the config invalid; unknown fields are ignored.
//   - gRFC A6, client retries: retryPolicy and retryThrottling, what is required
//     in them and their ranges.
//   - gRFC A21, service config errors: what a channel does with an invalid
//     config. This package only reports the error.
//   - gRFC A24, load balancing policy configuration: loadBalancingConfig is a list
//     of one-key objects; the first registered policy is chosen and its own
//     config decides whether the whole is valid.
//   - gRFC A17, client-side health checking: healthCheckConfig.serviceName.
//
// # Not covered
//
// hedgingPolicy is ignored like an unknown field, as in grpc-go 1.85.0. Repeated
// keys of one JSON object are not an error: the last one counts.
//
// # Where grpc-go 1.85.0 differs
//
// Field names match without regard to case and null fields count as absent, as
// there. A config that is accepted there is accepted here, except:
//
//   - null as an element of methodConfig, name or retryableStatusCodes is an
//     error. grpc-go takes a null name for the default of all methods and a null
//     status code for OK.
//   - retryThrottling is always checked. grpc-go skips the check when there is no
//     methodConfig.
//   - tokenRatio is cut to three decimal places, as gRFC A6 says, and must not be
//     zero after that. grpc-go uses every place.
//   - A retryPolicy is checked even in an entry without name.
//   - A negative message size is an error. In grpc-go every RPC of that method
//     fails.
//   - A duration holds digits only: "--1s" and "1.-5s" are errors.
//
// And these are accepted here but not there, as protobuf's JSON mapping allows
// them: numbers as strings ("1024"), whole numbers with an exponent or a fraction
// of zero (1e3, 5.0), escapes within a status code's name.
//
// Wider than the schema, as in grpc-go: message sizes above uint32, a maxTokens
// with a fraction, a negative timeout, whose RPCs have expired at their start.
//
// Status codes are upper-case names or numbers from 0 to 16, as in grpc-go. (gRFC
// A6 would have names in any case.)
package serviceconfig
