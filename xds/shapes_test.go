package xds

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/attributes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial"
)

// Config selectors of shapes that grpc-go's could have.
type (
	knownInfo struct {
		Context context.Context
		Method  string
	}
	knownConfig struct {
		Context      context.Context
		MethodConfig grpcdial.MethodConfig
		OnCommitted  func()
		Interceptor  any
	}
	infoWithMore struct {
		Context context.Context
		Method  string
		Peer    string
	}
	configWithLess struct {
		Context     context.Context
		OnCommitted func()
		Interceptor any
	}
	configWithOther struct {
		Context      context.Context
		MethodConfig *grpcdial.MethodConfig
		OnCommitted  func()
		Interceptor  any
	}

	known       struct{ config *knownConfig }
	moreInfo    struct{}
	lessConfig  struct{}
	otherConfig struct{}
	noError     struct{}
)

func (k known) SelectConfig(knownInfo) (*knownConfig, error)                { return k.config, nil }
func (moreInfo) SelectConfig(infoWithMore) (*knownConfig, error)            { return nil, nil }
func (lessConfig) SelectConfig(knownInfo) (*configWithLess, error)          { return nil, nil }
func (otherConfig) SelectConfig(knownInfo) (*configWithOther, error)        { return nil, nil }
func (noError) SelectConfig(knownInfo) *knownConfig                         { return nil }
func (odd) NewStream(context.Context, knownInfo) (grpc.ClientStream, error) { return nil, nil }

// odd is an interceptor of a shape that is not known.
type odd struct{}

type stringKey string

// TestUnknownShapes: RPCs fail with what is not known.
func TestUnknownShapes(t *testing.T) {
	committed := 0
	for name, tt := range map[string]struct {
		key, selector any
		says          string
	}{
		"key":                {new(int), known{}, "key is a *int"},
		"a field more":       {stringKey("k"), moreInfo{}, "has a field Peer string"},
		"a field less":       {stringKey("k"), lessConfig{}, "lacks a field"},
		"a field of another": {stringKey("k"), otherConfig{}, "has a field MethodConfig *"},
		"results":            {stringKey("k"), noError{}, "SelectConfig is a func("},
		"interceptor":        {stringKey("k"), known{&knownConfig{Interceptor: odd{}, OnCommitted: func() { committed++ }}}, "the interceptor's NewStream is a func("},
		"no interceptor":     {stringKey("k"), known{&knownConfig{Interceptor: 1}}, "the interceptor int has no method"},
	} {
		t.Run(name, func(t *testing.T) {
			sel := selectorFor(attributes.New("other", 1).WithValue(tt.key, tt.selector).WithValue("another", nil))
			require.NotNil(t, sel)
			_, err := sel.SelectCallConfig(grpcdial.CallInfo{Context: t.Context(), Method: "/s/m"})
			require.ErrorContains(t, err, tt.says)
			assert.ErrorContains(t, err, "this version of grpc-go")
			assert.Contains(t, []codes.Code{codes.Unavailable, codes.Internal}, status.Code(err))
		})
	}
	assert.Equal(t, 1, committed, "an RPC that fails by its interceptor is over")
}

// TestNoSelector: an update without one is passed on as it is.
func TestNoSelector(t *testing.T) {
	assert.Nil(t, selectorFor(nil))
	assert.Nil(t, selectorFor(attributes.New("other", 1).WithValue("nothing", nil)))
}

// TestKnownShape: a selector of a key that is an empty struct, and an RPC that it has
// nothing to say on.
func TestKnownShape(t *testing.T) {
	type key struct{}
	sel := selectorFor(attributes.New(key{}, known{}))
	c, err := sel.SelectCallConfig(grpcdial.CallInfo{Context: t.Context(), Method: "/s/m"})
	require.NoError(t, err)
	assert.Nil(t, c)
	config := &knownConfig{Context: t.Context(), MethodConfig: grpcdial.MethodConfig{WaitForReady: new(true)}}
	c, err = selectorFor(attributes.New(key{}, known{config})).SelectCallConfig(grpcdial.CallInfo{Context: t.Context(), Method: "/s/m"})
	require.NoError(t, err)
	assert.Equal(t, config.MethodConfig, c.MethodConfig)
	assert.Equal(t, t.Context(), c.Context)
	assert.Nil(t, c.Interceptor)
}

// TestWrapTwice: the second time changes nothing.
func TestWrapTwice(t *testing.T) {
	assert.Equal(t, Resolver(), Wrap(Resolver()))
}
