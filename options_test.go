package grpcdial

import (
	"bytes"
	"context"
	"crypto/tls"
	"go/ast"
	"go/parser"
	"go/printer"
	"go/token"
	"iter"
	"log/slog"
	"maps"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/channelz"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/stats"

	"github.com/grpcdial/grpcdial/internal/subchannel"
)

func TestDefaultDialOptions(t *testing.T) {
	o, err := newDialOptions(byDial, nil)
	require.NoError(t, err)
	assert.Equal(t, backoff.DefaultConfig, o.connectParams.Backoff)
	assert.Equal(t, 20*time.Second, o.connectParams.MinConnectTimeout)
	assert.Equal(t, 5, o.maxCallAttempts)
	assert.Equal(t, baseUserAgent, o.userAgent)
	assert.Zero(t, o.keepalive, "keepalive is off")
	assert.Equal(t, 30*time.Minute, o.idleTimeout)
	assert.False(t, o.block)
}

type testBundle struct {
	credentials.Bundle
	transport credentials.TransportCredentials
	perRPC    credentials.PerRPCCredentials
}

func (b testBundle) TransportCredentials() credentials.TransportCredentials { return b.transport }
func (b testBundle) PerRPCCredentials() credentials.PerRPCCredentials       { return b.perRPC }

type testCodec struct{}

func (testCodec) Marshal(any) ([]byte, error) { return nil, nil }
func (testCodec) Unmarshal([]byte, any) error { return nil }
func (testCodec) String() string              { return "test" }

type noStats struct{ stats.Handler }

type testParent struct{ channelz.Identifier }

// optionEffects says of every option which fields of dialOptions it changes
// and, where one value says it, to what.
var optionEffects = []struct {
	name   string
	option DialOption
	fields map[string]any // field to its value; keep: any change will do
}{
	{"WithBlock", WithBlock(), map[string]any{"block": true}},
	{"WithReturnConnectionError", WithReturnConnectionError(), map[string]any{"block": true, "returnConnectionError": true}},
	{"FailOnNonTempDialError", FailOnNonTempDialError(true), map[string]any{"failOnNonTempDialError": true}},
	{"FailOnNonTempDialError false", FailOnNonTempDialError(false), nil},
	{"WithGiveUp", WithGiveUp(func(Attempt) bool { return true }), map[string]any{"giveUp": keep}},
	{"WithGiveUp nil", WithGiveUp(nil), nil},
	{"WithDialTrace", WithDialTrace(new(DialTrace)), map[string]any{"traces": keep}},
	{"WithDialTrace nil", WithDialTrace(nil), nil},
	{"WithLogger", WithLogger(slog.Default()), map[string]any{"logger": slog.Default()}},
	{"WithLogger nil", WithLogger(nil), nil},
	{"WithTimeout", WithTimeout(time.Second), map[string]any{"timeout": time.Second}},
	{"WithTimeout below zero", WithTimeout(-time.Second), nil},
	{"WithChannelzParentID", WithChannelzParentID(testParent{}), map[string]any{"channelzParent": testParent{}}},
	{"WithInsecure", WithInsecure(), map[string]any{"insecure": true}},
	{"WithTransportCredentials", WithTransportCredentials(insecure.NewCredentials()), map[string]any{"transportCreds": insecure.NewCredentials()}},
	{"WithTransportCredentials nil", WithTransportCredentials(nil), nil},
	{"WithCredentialsBundle", WithCredentialsBundle(testBundle{}), map[string]any{"bundle": testBundle{}}},
	{"WithPerRPCCredentials", WithPerRPCCredentials(testPerRPC{}), map[string]any{"perRPCCreds": []credentials.PerRPCCredentials{testPerRPC{}}}},
	{"WithAuthority", WithAuthority("a"), map[string]any{"authority": "a"}},
	{"WithConnectCheck", WithConnectCheck(func(context.Context, ConnectCheckInfo) error { return nil }), map[string]any{"connectCheck": keep}},
	{"WithConnectCheck nil", WithConnectCheck(nil), nil},
	{"WithMaxConnectionsPerSubchannel", WithMaxConnectionsPerSubchannel(3), map[string]any{"maxConnections": 3}},
	{"WithMaxConnectionsPerSubchannel 0", WithMaxConnectionsPerSubchannel(0), map[string]any{"invalid": keep}},
	{"WithMaxConnectionAge", WithMaxConnectionAge(time.Hour, time.Minute), map[string]any{"age": subchannel.Age{Max: time.Hour, Jitter: time.Minute}}},
	{"WithMaxConnectionAge 0", WithMaxConnectionAge(0, 0), nil},
	{"WithMaxConnectionAge with too much jitter", WithMaxConnectionAge(time.Minute, time.Hour), map[string]any{"invalid": keep, "age": subchannel.Age{Max: time.Minute, Jitter: time.Hour}}},
	{"WithUserAgent", WithUserAgent("me/1"), map[string]any{"userAgent": "me/1 " + baseUserAgent}},
	{"WithUserAgent empty", WithUserAgent(""), nil},
	{"WithContextDialer", WithContextDialer(func(context.Context, string) (net.Conn, error) { return nil, nil }), map[string]any{"dialer": keep}},
	{"WithContextDialer nil", WithContextDialer(nil), nil},
	{"WithDialer", WithDialer(func(string, time.Duration) (net.Conn, error) { return nil, nil }), map[string]any{"dialer": keep}},
	{"WithDialer nil", WithDialer(nil), nil},
	{"WithResolvers", WithResolvers(manual.NewBuilderWithScheme("x")), map[string]any{"resolvers": keep}},
	{"WithDNS", WithDNS(DNSOptions{Refresh: time.Second}), map[string]any{"dns": &DNSOptions{Refresh: time.Second}}},
	{"WithProxy", WithProxy(func(string) (*url.URL, error) { return nil, nil }), map[string]any{"proxy": keep}},
	{"WithProxy nil", WithProxy(nil), nil},
	{"WithNoProxy", WithNoProxy(), map[string]any{"proxy": proxyOption{given: true}}},
	{"WithProxyTLSConfig", WithProxyTLSConfig(&tls.Config{ServerName: "p"}), map[string]any{"proxyTLS": &tls.Config{ServerName: "p"}}},
	{"WithProxyTLSConfig nil", WithProxyTLSConfig(nil), nil},
	{"WithLocalDNSResolution", WithLocalDNSResolution(), map[string]any{"localDNS": true}},
	{"WithServiceConfig", WithServiceConfig(make(chan ServiceConfig)), map[string]any{"serviceConfig": keep}},
	{"WithDefaultServiceConfig", WithDefaultServiceConfig("{}"), map[string]any{"defaultServiceConfig": keep}},
	{"WithDisableServiceConfig", WithDisableServiceConfig(), map[string]any{"disableServiceConfig": true}},
	{"WithConnectParams", WithConnectParams(ConnectParams{MinConnectTimeout: time.Second}), map[string]any{"connectParams": ConnectParams{MinConnectTimeout: time.Second}}},
	{"WithBackoffConfig", WithBackoffConfig(grpc.BackoffConfig{MaxDelay: time.Second}), map[string]any{"connectParams": maxDelay(time.Second)}}, // the option's type
	{"WithBackoffMaxDelay", WithBackoffMaxDelay(time.Second), map[string]any{"connectParams": maxDelay(time.Second)}},
	{"WithKeepaliveParams", WithKeepaliveParams(keepalive.ClientParameters{Time: time.Minute, Timeout: time.Second, PermitWithoutStream: true}),
		map[string]any{"keepalive": keepalive.ClientParameters{Time: time.Minute, Timeout: time.Second, PermitWithoutStream: true}}},
	{"WithKeepaliveParams below the floor", WithKeepaliveParams(keepalive.ClientParameters{Time: time.Second}),
		map[string]any{"keepalive": keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 20 * time.Second}}},
	{"WithInitialWindowSize", WithInitialWindowSize(1 << 20), map[string]any{"streamWindow": int32(1 << 20)}},
	{"WithInitialWindowSize least", WithInitialWindowSize(65535), map[string]any{"streamWindow": int32(65535)}},
	{"WithInitialWindowSize below", WithInitialWindowSize(65534), nil},
	{"WithInitialConnWindowSize", WithInitialConnWindowSize(1 << 20), map[string]any{"connWindow": int32(1 << 20)}},
	{"WithInitialConnWindowSize below", WithInitialConnWindowSize(65534), nil},
	{"WithStaticStreamWindowSize", WithStaticStreamWindowSize(1 << 20), map[string]any{"streamWindow": int32(1 << 20)}},
	{"WithStaticConnWindowSize", WithStaticConnWindowSize(1 << 20), map[string]any{"connWindow": int32(1 << 20)}},
	{"WithMaxHeaderListSize", WithMaxHeaderListSize(1000), map[string]any{"maxHeaderList": keep}},
	{"WithReadBufferSize", WithReadBufferSize(1000), map[string]any{"readBuffer": 1000}},
	{"WithReadBufferSize zero", WithReadBufferSize(0), map[string]any{"readBuffer": 1 << 10}},
	{"WithWriteBufferSize", WithWriteBufferSize(1000), map[string]any{"writeBuffer": 1000}},
	{"WithWriteBufferSize zero", WithWriteBufferSize(0), map[string]any{"writeBuffer": 1}},
	{"WithSharedWriteBuffer", WithSharedWriteBuffer(false), nil},
	{"WithIdleTimeout", WithIdleTimeout(time.Second), map[string]any{"idleTimeout": time.Second}},
	{"WithIdleTimeout below zero", WithIdleTimeout(-1), map[string]any{"idleTimeout": time.Duration(0)}},
	{"WithDefaultCallOptions", WithDefaultCallOptions(grpc.WaitForReady(true)), map[string]any{"callOptions": []grpc.CallOption{grpc.WaitForReady(true)}}},
	{"WithMaxMsgSize", WithMaxMsgSize(7), map[string]any{"callOptions": []grpc.CallOption{grpc.MaxCallRecvMsgSize(7)}}},
	{"WithCodec", WithCodec(testCodec{}), map[string]any{"callOptions": []grpc.CallOption{grpc.CustomCodecCallOption{Codec: testCodec{}}}}},
	{"WithCompressor", WithCompressor(grpc.NewGZIPCompressor()), map[string]any{"compressor": keep}},         // what the option takes
	{"WithDecompressor", WithDecompressor(grpc.NewGZIPDecompressor()), map[string]any{"decompressor": keep}}, // what the option takes
	{"WithDisableRetry", WithDisableRetry(), map[string]any{"disableRetry": true}},
	{"WithDisableHealthCheck", WithDisableHealthCheck(), map[string]any{"disableHealthCheck": true}},
	{"WithMaxCallAttempts", WithMaxCallAttempts(2), map[string]any{"maxCallAttempts": 2}},
	{"WithMaxCallAttempts below two", WithMaxCallAttempts(1), nil},
	{"WithStatsHandler", WithStatsHandler(noStats{}), map[string]any{"statsHandlers": []stats.Handler{noStats{}}}},
	{"WithStatsHandler nil", WithStatsHandler(nil), nil},
	{"WithUnaryInterceptor", WithUnaryInterceptor(passUnary), map[string]any{"unary": keep}},
	{"WithChainUnaryInterceptor", WithChainUnaryInterceptor(passUnary, passUnary), map[string]any{"chainUnary": keep}},
	{"WithStreamInterceptor", WithStreamInterceptor(passStream), map[string]any{"stream": keep}},
	{"WithChainStreamInterceptor", WithChainStreamInterceptor(passStream), map[string]any{"chainStream": keep}},
	{"WithDefaultConfig", WithDefaultConfig(ServiceConfig{MaxConnectionsPerSubchannel: 2}), map[string]any{"defaultServiceConfig": keep}},
	{"WithDefaultConfig invalid", WithDefaultConfig(ServiceConfig{MaxConnectionsPerSubchannel: -1}), map[string]any{"invalid": keep}},
	{"JoinDialOptions", JoinDialOptions(WithAuthority("a"), WithNoProxy()), map[string]any{"authority": "a", "proxy": proxyOption{given: true}}},
	{"JoinDialOptions nil", JoinDialOptions(nil), map[string]any{"invalid": keep}},
	{"EmptyDialOption", EmptyDialOption{}, nil},
}

// keep stands for a value that has no equality or no other form.
var keep = new(int)

func maxDelay(d time.Duration) ConnectParams {
	p := ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: 20 * time.Second}
	p.Backoff.MaxDelay = d
	return p
}

func passUnary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return invoker(ctx, method, req, reply, cc, opts...)
}

func passStream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return streamer(ctx, desc, cc, method, opts...)
}

func TestOptionsSetTheirFields(t *testing.T) {
	untouched := map[string]bool{}
	for _, f := range optionFields {
		untouched[f.Name] = true
	}
	for _, tt := range optionEffects {
		t.Run(tt.name, func(t *testing.T) {
			before, after := defaultDialOptions(), defaultDialOptions()
			tt.option.passGrpcOptionsThroughBridgeFromGRPC(&after)
			changed := changedFields(before, after)
			assert.ElementsMatch(t, slices.Collect(maps.Keys(tt.fields)), slices.Collect(maps.Keys(changed)))
			for name, want := range tt.fields {
				delete(untouched, name)
				if want != any(keep) {
					assert.Equal(t, want, changed[name])
				}
			}
		})
	}
	assert.Empty(t, untouched, "fields of dialOptions that no option sets")
}

// optionFields is the fields of dialOptions, those of its groups in place of the groups.
var optionFields = slices.DeleteFunc(reflect.VisibleFields(reflect.TypeFor[dialOptions]()), func(f reflect.StructField) bool { return f.Anonymous })

// changedFields returns the fields in which a and b differ, as they are in b.
func changedFields(a, b dialOptions) map[string]any {
	changed := map[string]any{}
	av, bv := reflect.ValueOf(&a).Elem(), reflect.ValueOf(&b).Elem()
	for _, f := range optionFields {
		x, y := exported(av.FieldByIndex(f.Index)), exported(bv.FieldByIndex(f.Index))
		if y.Kind() == reflect.Func {
			if x.IsNil() != y.IsNil() {
				changed[f.Name] = y.Interface()
			}
			continue
		}
		if !reflect.DeepEqual(x.Interface(), y.Interface()) {
			changed[f.Name] = y.Interface()
		}
	}
	return changed
}

// exported returns v, a field of an addressable struct, as if its name were
// exported.
func exported(v reflect.Value) reflect.Value {
	return reflect.NewAt(v.Type(), v.Addr().UnsafePointer()).Elem()
}

func TestRepeatedOptions(t *testing.T) {
	o, err := newDialOptions(byNewClient, []DialOption{
		WithAuthority("first"), WithAuthority("last"),
		WithInitialWindowSize(1 << 20), WithInitialWindowSize(1),
		FailOnNonTempDialError(true), FailOnNonTempDialError(false),
		WithTimeout(time.Second), WithTimeout(0),
		WithConnectParams(ConnectParams{MinConnectTimeout: time.Second}), WithBackoffMaxDelay(time.Minute),
		WithDefaultCallOptions(grpc.WaitForReady(true)), WithMaxMsgSize(7),
		WithChainUnaryInterceptor(passUnary), WithChainUnaryInterceptor(passUnary, passUnary),
		WithResolvers(manual.NewBuilderWithScheme("x")), WithResolvers(manual.NewBuilderWithScheme("y")),
	})
	require.NoError(t, err)
	assert.Equal(t, "last", o.authority)
	assert.Zero(t, o.streamWindow, "the last size is below the least, so the default holds")
	assert.Equal(t, time.Second, o.connectParams.MinConnectTimeout, "back-off alone was replaced")
	assert.Equal(t, time.Minute, o.connectParams.Backoff.MaxDelay)
	assert.Equal(t, backoff.DefaultConfig.BaseDelay, o.connectParams.Backoff.BaseDelay)
	assert.Equal(t, []grpc.CallOption{grpc.WaitForReady(true), grpc.MaxCallRecvMsgSize(7)}, o.callOptions)
	assert.Len(t, o.chainUnary, 3)
	assert.Len(t, o.resolvers, 2)
}

func TestOptionsServeManyChannels(t *testing.T) {
	shared := make([]grpc.CallOption, 1, 8)
	shared[0] = grpc.WaitForReady(true)
	option := WithDefaultCallOptions(shared...)
	a, err := newDialOptions(byDial, []DialOption{option, WithMaxMsgSize(1)})
	require.NoError(t, err)
	b, err := newDialOptions(byDial, []DialOption{option, WithMaxMsgSize(2)})
	require.NoError(t, err)
	assert.Equal(t, grpc.MaxCallRecvMsgSize(1), a.callOptions[1])
	assert.Equal(t, grpc.MaxCallRecvMsgSize(2), b.callOptions[1])
}

// ownOption is an option type of a program, as grpc-go's users write them.
type ownOption struct {
	EmptyDialOption
	Note string
}

func TestEmptyDialOptionEmbedded(t *testing.T) {
	var opt DialOption = ownOption{Note: "for a wrapper of DialContext"}
	o, err := newDialOptions(byDial, []DialOption{opt})
	require.NoError(t, err)
	assert.Empty(t, changedFields(defaultDialOptions(), *o))
}

func TestInvalidOptions(t *testing.T) {
	tests := []struct {
		name  string
		by    constructor
		opts  []DialOption
		parts []string // of the error; none: valid
	}{
		{"nothing", byNewClient, nil, nil},
		{"nil option", byDial, []DialOption{WithBlock(), nil}, []string{"option 2 of 2 is nil"}},
		{"NewClient, WithBlock", byNewClient, []DialOption{WithBlock()}, []string{"NewClient", "WithBlock:", "AwaitReady", "DialContext"}},
		{"NewClient, WithReturnConnectionError", byNewClient, []DialOption{WithReturnConnectionError()}, []string{"NewClient", "WithReturnConnectionError:"}},
		{"NewClient, FailOnNonTempDialError", byNewClient, []DialOption{FailOnNonTempDialError(true)}, []string{"NewClient", "FailOnNonTempDialError:"}},
		{"NewClient, FailOnNonTempDialError(false)", byNewClient, []DialOption{FailOnNonTempDialError(false)}, nil},
		{"NewClient, WithTimeout", byNewClient, []DialOption{WithTimeout(1)}, []string{"NewClient", "WithTimeout:"}},
		{"NewClient, all", byNewClient, []DialOption{WithBlock(), FailOnNonTempDialError(true), WithTimeout(1)},
			[]string{"WithBlock, FailOnNonTempDialError, WithTimeout:"}},
		{"Dial, all", byDial, []DialOption{WithBlock(), FailOnNonTempDialError(true), WithTimeout(1), WithReturnConnectionError()}, nil},
		{"Dial, no WithBlock", byDial, []DialOption{FailOnNonTempDialError(true), WithTimeout(1)}, nil},
		{"nil resolver", byDial, []DialOption{WithResolvers(manual.NewBuilderWithScheme("x"), nil)}, []string{"WithResolvers", "2 of 2"}},
		{"nil per-RPC credentials", byDial, []DialOption{WithPerRPCCredentials(nil)}, []string{"WithPerRPCCredentials", "1 of 1"}},
		{"nil call option", byDial, []DialOption{WithDefaultCallOptions(nil)}, []string{"WithDefaultCallOptions", "1 of 1"}},
		{"nil codec", byDial, []DialOption{WithCodec(nil)}, []string{"WithCodec"}},
		{"nil chained unary interceptor", byDial, []DialOption{WithChainUnaryInterceptor(passUnary, nil)}, []string{"WithChainUnaryInterceptor", "2 of 2"}},
		{"nil chained stream interceptor", byDial, []DialOption{WithChainStreamInterceptor(nil, passStream)}, []string{"WithChainStreamInterceptor", "1 of 2"}},
		{"nil single interceptors", byDial, []DialOption{WithUnaryInterceptor(nil), WithStreamInterceptor(nil)}, nil},
		{"line break in user agent", byDial, []DialOption{WithUserAgent("a\r\nb: c")}, []string{"WithUserAgent", `a\r\nb: c`}},
		{"tab in user agent", byDial, []DialOption{WithUserAgent("a\tb")}, nil},
		{"line break in authority", byDial, []DialOption{WithAuthority("a\nb")}, []string{"WithAuthority", `a\nb`}},
		{"no time to connect", byDial, []DialOption{WithConnectParams(ConnectParams{})}, []string{"WithConnectParams", "MinConnectTimeout of 0s", "BaseDelay of 0s"}},
		{"time by the back-off", byDial, []DialOption{WithConnectParams(ConnectParams{Backoff: backoff.Config{BaseDelay: 1}})}, nil},
		{"nil codec for all RPCs", byDial, []DialOption{WithDefaultCallOptions(grpc.ForceCodec(nil))}, []string{"WithDefaultCallOptions", "ForceCodec"}},
		{"two at once", byDial, []DialOption{WithCodec(nil), WithAuthority("\x00")}, []string{"WithCodec"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o, err := newDialOptions(tt.by, tt.opts)
			if tt.parts == nil {
				require.NoError(t, err)
				require.NotNil(t, o)
				return
			}
			require.Error(t, err)
			assert.NotContains(t, err.Error(), "\n")
			for _, part := range tt.parts {
				assert.ErrorContains(t, err, part)
			}
		})
	}
}

func TestWithDialerGetsTheTimeLeft(t *testing.T) {
	var got time.Duration
	o, err := newDialOptions(byDial, []DialOption{WithDialer(func(addr string, left time.Duration) (net.Conn, error) {
		assert.Equal(t, "backend:1", addr)
		got = left
		return nil, net.ErrClosed
	})})
	require.NoError(t, err)

	_, err = o.dialer(t.Context(), "backend:1")
	require.ErrorIs(t, err, net.ErrClosed)
	assert.Zero(t, got, "no deadline")

	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	_, err = o.dialer(ctx, "backend:1")
	require.ErrorIs(t, err, net.ErrClosed)
	assert.InDelta(t, time.Hour, got, float64(time.Minute))

	got = -1
	ended, cancel := context.WithTimeout(t.Context(), -1)
	defer cancel()
	_, err = o.dialer(ended, "backend:1")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.EqualValues(t, -1, got, "the dialer is not called without time to dial")
}

// notYet gives, for each of grpc-go's dial options that has no counterpart
// here, the reason. An option is left out rather than accepted without effect.
var notYet = map[string]string{}

// TestEveryDialOptionOfGRPC compares the functions of grpc-go that make dial
// options with ours: each is here under its name with the same parameters, or
// has a reason above.
func TestEveryDialOptionOfGRPC(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "google.golang.org/grpc").Output()
	require.NoError(t, err)
	theirs := optionConstructors(t, strings.TrimSpace(string(dir)))
	ours := optionConstructors(t, ".")
	require.Contains(t, theirs, "WithBlock")
	require.Contains(t, ours, "WithBlock")

	for _, name := range slices.Sorted(maps.Keys(theirs)) {
		reason, left := notYet[name]
		parameters, here := ours[name]
		switch {
		case here && left:
			t.Errorf("%s is here and has a reason not to be: %q", name, reason)
		case left:
			assert.NotEmpty(t, reason, name)
		case !here:
			t.Errorf("%s(%s) has neither a counterpart nor a reason", name, theirs[name])
		default:
			assert.Equal(t, theirs[name], parameters, name)
		}
	}
	for name := range notYet {
		assert.Contains(t, theirs, name, "a reason for what grpc-go does not have")
	}
}

// optionConstructors returns the exported functions of the package in dir that
// return a DialOption, with the types of their parameters as grpc-go would
// write them.
func optionConstructors(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	for f := range optionFuncs(t, dir) {
		var types []string
		for _, parameter := range f.Type.Params.List {
			var b bytes.Buffer
			require.NoError(t, printer.Fprint(&b, token.NewFileSet(), parameter.Type))
			types = append(types, strings.ReplaceAll(b.String(), "grpc.", ""))
		}
		found[f.Name.Name] = strings.Join(types, ", ")
	}
	return found
}

func optionFuncs(t *testing.T, dir string) iter.Seq[*ast.FuncDecl] {
	t.Helper()
	return func(yield func(*ast.FuncDecl) bool) {
		for _, file := range parseSources(t, dir) {
			for _, d := range file.Decls {
				f, ok := d.(*ast.FuncDecl)
				if !ok || f.Recv != nil || !f.Name.IsExported() || f.Type.Results == nil || len(f.Type.Results.List) != 1 {
					continue
				}
				if result, ok := f.Type.Results.List[0].Type.(*ast.Ident); !ok || result.Name != "DialOption" {
					continue
				}
				if !yield(f) {
					return
				}
			}
		}
	}
}

// TestOptionsAreDocumented: every exported function that makes an option says
// what it does.
func TestOptionsAreDocumented(t *testing.T) {
	for f := range optionFuncs(t, ".") {
		assert.True(t, strings.HasPrefix(f.Doc.Text(), f.Name.Name+" "), "%s needs a comment that begins with its name", f.Name.Name)
	}
}

// parseSources parses the Go files in dir that are no tests.
func parseSources(t *testing.T, dir string) []*ast.File {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	require.NoError(t, err)
	var files []*ast.File
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments|parser.SkipObjectResolution)
		require.NoError(t, err)
		files = append(files, file)
	}
	return files
}

// TestOptionsAreInTheTable: docs/options.md has one row for each option, with
// every cell filled, and none for what is no option. It says of those that
// grpc-go does not have that they are ours, and names those of grpc-go that are
// not here. That each option has a comment is TestOptionsAreDocumented's.
func TestOptionsAreInTheTable(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "google.golang.org/grpc").Output()
	require.NoError(t, err)
	theirs, ours := optionConstructors(t, strings.TrimSpace(string(dir))), optionConstructors(t, ".")

	text, err := os.ReadFile("docs/options.md")
	require.NoError(t, err)
	const columns, columnsOfMissing = 6, 2
	documented := map[string]bool{}
	missing := map[string]string{}
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		name, ok := strings.CutPrefix(strings.TrimSpace(cells[0]), "`")
		if !strings.HasPrefix(line, "|") || !ok {
			continue
		}
		name = strings.TrimSuffix(name, "`")
		for i, cell := range cells {
			cells[i] = strings.TrimSpace(cell)
			assert.NotEmpty(t, cells[i], "%s: cell %d", name, i+1)
		}
		if len(cells) == columnsOfMissing {
			missing[name] = cells[1]
			continue
		}
		if !assert.Len(t, cells, columns, name) {
			continue
		}
		assert.False(t, documented[name], "%s has two rows", name)
		documented[name] = true
		_, is := ours[name]
		assert.True(t, is, "%s has a row and is no option", name)
		_, has := theirs[name]
		counterpart, _, _ := strings.Cut(cells[columns-1], ";")
		assert.Equal(t, map[bool]string{true: "same", false: "ours"}[has], counterpart, name)
	}
	for name := range ours {
		assert.True(t, documented[name], "%s has no row in docs/options.md", name)
	}
	assert.Equal(t, notYet, missing, "what is not there yet")
}
