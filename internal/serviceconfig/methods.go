package serviceconfig

//lint:file-ignore SA1019 grpc.MethodConfig is the type that users of the channel give and get.

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

// FromMethods makes a config with the default Parser; see Parser.FromMethods.
func FromMethods(lb *string, methods map[string]grpc.MethodConfig) (*Config, error) {
	return Parser{}.FromMethods(lb, methods)
}

// FromMethods makes a config from Go values instead of JSON text: lb is what
// loadBalancingPolicy would be, or nil; methods is keyed by "/service/method",
// "/service/" for a service, or "" for all. The same rules hold as for parsed
// text, and the error is an *Error. The values are copied. The config's JSON is
// text that Parse makes the same config from, the same for the same values.
func (p Parser) FromMethods(lb *string, methods map[string]grpc.MethodConfig) (*Config, error) {
	c := &Config{methods: make(map[string]*MethodConfig, len(methods))}
	d := Document{Policy: lb}
	keys := slices.Sorted(maps.Keys(methods)) // one order: for the error and for the text
	for _, key := range keys {
		name, m, err := p.Entry(key, methods[key])
		if err != nil {
			return nil, err
		}
		c.methods[key] = m
		d.Methods = append(d.Methods, MethodEntry{[]Name{name}, *m})
	}
	var err error
	if c.JSON, err = d.JSON(); err != nil {
		return nil, err
	}
	if lb != nil {
		if c.LB, c.UnknownPolicy, err = legacyPolicy("LB", *lb); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// Entry returns what an entry of a map of methods stands for. The error is an *Error
// that names the key.
func (p Parser) Entry(key string, m grpc.MethodConfig) (Name, *MethodConfig, error) {
	field := fmt.Sprintf("Methods[%q]", key)
	if !validKey(key) {
		return Name{}, nil, wrongGo(field, strconv.Quote(key), `a key "/service/method", "/service/" or ""`)
	}
	config, err := p.FromGRPC(field, m)
	return nameOf(key), config, err
}

// validKey reports whether a key names a method or service, or is empty.
func validKey(key string) bool {
	// The service between the first and the last slash must not be empty.
	return key == "" || key[0] == '/' && strings.LastIndexByte(key, '/') > 1 && utf8.ValidString(key)
}

// FromGRPC copies m if what it holds is allowed. The error is an *Error that names the
// field, which begins with field.
func (p Parser) FromGRPC(field string, m grpc.MethodConfig) (*MethodConfig, error) {
	for _, size := range []struct {
		name  string
		value *int
	}{{"MaxReqSize", m.MaxReqSize}, {"MaxRespSize", m.MaxRespSize}} {
		if size.value != nil && *size.value < 0 {
			return nil, wrongGo(field+"."+size.name, *size.value, wantSize)
		}
	}
	out := &MethodConfig{
		WaitForReady: clone(m.WaitForReady),
		Timeout:      clone(m.Timeout),
		MaxReqSize:   clone(m.MaxReqSize),
		MaxRespSize:  clone(m.MaxRespSize),
	}
	rp := m.RetryPolicy
	if rp == nil {
		return out, nil
	}
	field += ".RetryPolicy"
	switch {
	case rp.MaxAttempts < 2:
		return nil, wrongGo(field+".MaxAttempts", rp.MaxAttempts, wantAttempts)
	case rp.InitialBackoff <= 0:
		return nil, wrongGo(field+".InitialBackoff", rp.InitialBackoff, "a duration above 0")
	case rp.MaxBackoff <= 0:
		return nil, wrongGo(field+".MaxBackoff", rp.MaxBackoff, "a duration above 0")
	case !(rp.BackoffMultiplier > 0) || math.IsInf(rp.BackoffMultiplier, 0): // NaN is not above 0
		return nil, wrongGo(field+".BackoffMultiplier", rp.BackoffMultiplier, wantMultiplier)
	}
	var set CodeSet
	for _, code := range slices.Sorted(maps.Keys(rp.RetryableStatusCodes)) {
		if code > maxCode {
			return nil, wrongGo(field+".RetryableStatusCodes", uint32(code), "status codes from 0 to 16")
		}
		if rp.RetryableStatusCodes[code] {
			set = set.With(code)
		}
	}
	if set == 0 {
		return nil, wrongGo(field+".RetryableStatusCodes", "an empty set", "one status code or more")
	}
	out.RetryPolicy = &RetryPolicy{
		MaxAttempts:          min(rp.MaxAttempts, p.maxCallAttempts()),
		InitialBackoff:       rp.InitialBackoff,
		MaxBackoff:           rp.MaxBackoff,
		BackoffMultiplier:    rp.BackoffMultiplier,
		RetryableStatusCodes: set,
	}
	return out, nil
}

// wrongGo is the error for a field of a Go value.
func wrongGo(field string, value any, want string) error {
	return &Error{Field: field, Value: fmt.Sprint(value), Want: want}
}

// GRPC returns m as grpc-go's type, for ClientConn.GetMethodConfig. It converts
// all of m, the retry policy too. The result shares nothing with m.
func (m MethodConfig) GRPC() grpc.MethodConfig {
	out := grpc.MethodConfig{
		WaitForReady: clone(m.WaitForReady),
		Timeout:      clone(m.Timeout),
		MaxReqSize:   clone(m.MaxReqSize),
		MaxRespSize:  clone(m.MaxRespSize),
	}
	if m.RetryPolicy == nil {
		return out
	}
	// The type of this field is internal to grpc-go and has no name here, but its
	// fields are exported and a type parameter can stand for it.
	rp := newLike(out.RetryPolicy)
	rp.MaxAttempts = m.RetryPolicy.MaxAttempts
	rp.InitialBackoff = m.RetryPolicy.InitialBackoff
	rp.MaxBackoff = m.RetryPolicy.MaxBackoff
	rp.BackoffMultiplier = m.RetryPolicy.BackoffMultiplier
	rp.RetryableStatusCodes = make(map[codes.Code]bool)
	for code := range m.RetryPolicy.RetryableStatusCodes.All() {
		rp.RetryableStatusCodes[code] = true
	}
	out.RetryPolicy = rp
	return out
}

func newLike[T any](*T) *T { return new(T) }

func clone[T any](p *T) *T {
	if p == nil {
		return nil
	}
	v := *p
	return &v
}
