package bridge

import (
	"errors"
	"reflect"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// TestEveryFieldIsAccountedFor: a field that a version of grpc-go adds is found here,
// not by a program whose option has no effect.
func TestEveryFieldIsAccountedFor(t *testing.T) {
	usual, err := usualOptions()
	require.NoError(t, err)
	f := fieldsOf(usual)
	interceptors(f)
	convert(f)
	require.NoError(t, f.err())
	for i := range usual.NumField() {
		assert.True(t, f.known[usual.Type().Field(i).Name], usual.Type().Field(i).Name)
	}
	copts := fieldsOf(f.value("copts"))
	var o options
	convertConnections(copts, &o)
	for i := range copts.of.NumField() {
		assert.True(t, copts.known[copts.of.Type().Field(i).Name], copts.of.Type().Field(i).Name)
	}
}

// TestUnknownShape: of another grpc-go, whose fields this package does not know.
func TestUnknownShape(t *testing.T) {
	type other struct {
		block int
		fresh string
	}
	v := reflect.New(reflect.TypeFor[other]()).Elem()
	f := fieldsOf(v)
	get[bool](f, "block")
	get[bool](f, "gone")
	usual := reflect.New(reflect.TypeFor[other]()).Elem()
	f.unknown(usual)
	assert.Len(t, f.errors, 2)
	assert.ErrorContains(t, f.err(), "block of type int, want bool")
	assert.ErrorContains(t, f.err(), "has no field bridge.other.gone")

	set(fieldsOf(v), "fresh", "set by an option")
	f.unknown(usual)
	assert.ErrorContains(t, f.err(), "sets bridge.other.fresh")
	_ = other{}.block
	_ = other{}.fresh
}

// TestRefusal: what ToGRPC returns if grpc-go is one that this package does not know fails
// the library's dial with the reason; if the library replaces the service config by which
// it does, its RPCs.
func TestRefusal(t *testing.T) {
	given := append(refusal(errors.New("grpc-go has no field dialOptions.gone")), grpc.WithTransportCredentials(insecure.NewCredentials()))
	_, err := grpc.NewClient("passthrough:///nowhere", given...)
	require.ErrorContains(t, err, "no field dialOptions.gone")

	conn, err := grpc.NewClient("passthrough:///nowhere", append(given, grpc.WithDefaultServiceConfig("{}"))...)
	require.NoError(t, err)
	defer conn.Close()
	err = conn.Invoke(t.Context(), "/s/m", nil, nil)
	assert.Equal(t, codes.Unavailable, status.Code(err))
	require.ErrorContains(t, err, "no field dialOptions.gone")
	_, err = conn.NewStream(t.Context(), new(grpc.StreamDesc), "/s/m")
	assert.Equal(t, codes.Unavailable, status.Code(err))
	require.ErrorContains(t, err, "no field dialOptions.gone")
}
