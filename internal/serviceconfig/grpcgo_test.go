package serviceconfig_test

//lint:file-ignore SA1019 GetMethodConfig is how grpc-go can be asked.

import (
	"context"
	"errors"
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/serviceconfig"
)

// emptyResolver answers with no address and no config while it is built, upon
// which grpc-go applies the default service config.
type emptyResolver struct{}

func (emptyResolver) Scheme() string { return "empty" }

func (emptyResolver) Build(_ resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	_ = cc.UpdateState(resolver.State{}) // "no addresses", from the policy
	return emptyResolver{}, nil
}

func (emptyResolver) ResolveNow(resolver.ResolveNowOptions) {}
func (emptyResolver) Close()                                {}

// askGRPC gives js to grpc-go and returns how it looks methods up.
func askGRPC(t testing.TB, js string, maxAttempts int) (func(method string) grpc.MethodConfig, error) {
	t.Helper()
	cc, err := grpc.NewClient("empty:///x",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithResolvers(emptyResolver{}),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return nil, errors.New("not dialed") }),
		grpc.WithDefaultServiceConfig(js),
		grpc.WithMaxCallAttempts(maxAttempts))
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = cc.Close() })
	cc.Connect() // returns when the resolver is built
	return cc.GetMethodConfig, nil
}

// Configs that only one side accepts. The zero value: both agree.
const (
	onlyOurs = "accepted here only"
	onlyGRPC = "accepted by grpc-go only"
)

func TestSideBySideWithGRPCGo(t *testing.T) {
	method := func(fields string) string { return `{"methodConfig":[{"name":[{}],` + fields + `}]}` }
	retry := func(attempts, initial, maximum, multiplier, codes string) string {
		return method(`"retryPolicy":{"maxAttempts":` + attempts + `,"initialBackoff":` + initial + `,"maxBackoff":` + maximum +
			`,"backoffMultiplier":` + multiplier + `,"retryableStatusCodes":` + codes + `}`)
	}
	tests := []struct {
		name   string
		js     string
		differ string
	}{
		{name: "empty text", js: ``},
		{name: "blank text", js: ` `},
		{name: "null", js: `null`},
		{name: "empty object", js: `{}`},
		{name: "array", js: `[]`},
		{name: "text after the object", js: `{} x`},
		{name: "unknown fields", js: `{"x":1,"methodConfig":[{"y":[],"name":[{"service":"s","z":{}}],"timeout":"1s"}]}`},
		{name: "field names in another case", js: `{"METHODCONFIG":[{"Name":[{"SERVICE":"s"}],"TimeOut":"1s"}]}`},
		{name: "repeated field", js: method(`"timeout":"1s","timeout":"2s"`)},
		{name: "white space everywhere", js: " {\n\t\"methodConfig\" : [ { \"name\" : [ { \"service\" : \"s\" } ] , \"timeout\" : \"1s\" } ] } "},

		{name: "names of all kinds", js: `{"methodConfig":[{"name":[{"service":"s","method":"m"},{"service":"t"}],"timeout":"1s"},{"name":[{"service":"s"}],"waitForReady":true},{"name":[{}],"waitForReady":false}]}`},
		{name: "service with a slash", js: `{"methodConfig":[{"name":[{"service":"a/b"}],"timeout":"1s"}]}`},
		{name: "names null inside", js: `{"methodConfig":[{"name":[{"service":null,"method":null}],"timeout":"1s"}]}`},
		{name: "name missing", js: `{"methodConfig":[{"timeout":"1s"}]}`},
		{name: "name null", js: `{"methodConfig":[{"name":null,"timeout":"1s"}]}`},
		{name: "name empty", js: `{"methodConfig":[{"name":[],"timeout":"1s"}]}`},
		{name: "name twice in an entry", js: `{"methodConfig":[{"name":[{"service":"s"},{"service":"s"}]}]}`},
		{name: "name twice in two entries", js: `{"methodConfig":[{"name":[{"service":"s","method":"m"}]},{"name":[{"service":"s","method":"m"}]}]}`},
		{name: "default twice", js: `{"methodConfig":[{"name":[{}]},{"name":[{"service":""}]}]}`},
		{name: "method alone", js: `{"methodConfig":[{"name":[{"method":"m"}]}]}`},
		{name: "service a number", js: `{"methodConfig":[{"name":[{"service":1}]}]}`},
		{name: "methodConfig null", js: `{"methodConfig":null}`},
		{name: "methodConfig an object", js: `{"methodConfig":{}}`},
		{name: "name an object", js: `{"methodConfig":[{"name":{}}]}`},
		// grpc-go: a null name is the default for all methods; protobuf's JSON mapping has no null elements.
		{name: "null as a name", js: `{"methodConfig":[{"name":[null],"timeout":"1s"}]}`, differ: onlyGRPC},
		// grpc-go: skipped. Refused here by the same rule.
		{name: "null as an entry", js: `{"methodConfig":[null]}`, differ: onlyGRPC},
		{name: "bad type without name", js: `{"methodConfig":[{"timeout":"1m"}]}`},
		// grpc-go does not look at it. Here the mistake is reported, though the entry applies to nothing.
		{name: "bad retry policy without name", js: `{"methodConfig":[{"retryPolicy":{"maxAttempts":1}}]}`, differ: onlyGRPC},

		{name: "waitForReady true", js: method(`"waitForReady":true`)},
		{name: "waitForReady null", js: method(`"waitForReady":null`)},
		{name: "waitForReady a string", js: method(`"waitForReady":"true"`)},
		{name: "waitForReady a number", js: method(`"waitForReady":1`)},

		{name: "timeout null", js: method(`"timeout":null`)},
		{name: "timeout whole", js: method(`"timeout":"3s"`)},
		{name: "timeout 9 places", js: method(`"timeout":"1.123456789s"`)},
		{name: "timeout 10 places", js: method(`"timeout":"1.1234567890s"`)},
		{name: "timeout without whole part", js: method(`"timeout":".5s"`)},
		{name: "timeout without fraction", js: method(`"timeout":"1.s"`)},
		{name: "timeout negative", js: method(`"timeout":"-1.5s"`)},
		{name: "timeout negative fraction", js: method(`"timeout":"-.5s"`)},
		{name: "timeout minus zero", js: method(`"timeout":"-0s"`)},
		{name: "timeout no digits", js: method(`"timeout":".s"`)},
		{name: "timeout only unit", js: method(`"timeout":"s"`)},
		{name: "timeout empty", js: method(`"timeout":""`)},
		{name: "timeout minus alone", js: method(`"timeout":"-s"`)},
		{name: "timeout two points", js: method(`"timeout":"1.2.3s"`)},
		{name: "timeout no unit", js: method(`"timeout":"1"`)},
		{name: "timeout other unit", js: method(`"timeout":"1ms"`)},
		{name: "timeout blank inside", js: method(`"timeout":"1 s"`)},
		{name: "timeout exponent", js: method(`"timeout":"1e3s"`)},
		{name: "timeout a number", js: method(`"timeout":1`)},
		{name: "timeout plus sign", js: method(`"timeout":"+1s"`)},
		{name: "timeout time.Duration's most", js: method(`"timeout":"9223372036.854775807s"`)},
		{name: "timeout above time.Duration's most", js: method(`"timeout":"9223372036.854775808s"`)},
		{name: "timeout time.Duration's least", js: method(`"timeout":"-9223372036.854775808s"`)},
		{name: "timeout Duration's most", js: method(`"timeout":"315576000000s"`)},
		{name: "timeout above Duration's most", js: method(`"timeout":"315576000001s"`)},
		{name: "timeout below Duration's least", js: method(`"timeout":"-315576000001s"`)},
		{name: "timeout beyond int64", js: method(`"timeout":"99999999999999999999s"`)},
		// grpc-go: the second sign is read as part of the number: 1s.
		{name: "timeout two signs", js: method(`"timeout":"--1s"`), differ: onlyGRPC},
		// grpc-go: half a second less than one second.
		{name: "timeout sign in the fraction", js: method(`"timeout":"1.-5s"`), differ: onlyGRPC},

		{name: "sizes", js: method(`"maxRequestMessageBytes":0,"maxResponseMessageBytes":4294967295`)},
		{name: "sizes null", js: method(`"maxRequestMessageBytes":null,"maxResponseMessageBytes":null`)},
		{name: "sizes above uint32", js: method(`"maxRequestMessageBytes":4294967296,"maxResponseMessageBytes":9223372036854775807`)},
		{name: "size beyond int64", js: method(`"maxRequestMessageBytes":9223372036854775808`)},
		{name: "size with a fraction", js: method(`"maxRequestMessageBytes":1.5`)},
		{name: "size a word", js: method(`"maxRequestMessageBytes":"many"`)},
		{name: "size a boolean", js: method(`"maxRequestMessageBytes":true`)},
		// grpc-go: every RPC fails, its message being larger than -1 bytes.
		{name: "size negative", js: method(`"maxRequestMessageBytes":-1`), differ: onlyGRPC},
		// protobuf's JSON mapping takes numbers as strings, with exponents and with fractions of zero.
		{name: "size a string", js: method(`"maxRequestMessageBytes":"1024"`), differ: onlyOurs},
		{name: "size with an exponent", js: method(`"maxRequestMessageBytes":1e3`), differ: onlyOurs},
		{name: "size with a fraction of zero", js: method(`"maxRequestMessageBytes":5.0`), differ: onlyOurs},

		{name: "retry attempts a string", js: retry(`"3"`, `"1s"`, `"1s"`, `1`, `[14]`), differ: onlyOurs},
		{name: "retry multiplier a string", js: retry(`3`, `"1s"`, `"1s"`, `"1.5"`, `[14]`), differ: onlyOurs},
		{name: "throttling numbers as strings", js: `{"methodConfig":[],"retryThrottling":{"maxTokens":"10","tokenRatio":"0.1"}}`, differ: onlyOurs},
		// grpc-go compares the name before it is unescaped.
		{name: "retry code with an escape", js: retry(`3`, `"1s"`, `"1s"`, `1`, `["UNAV\u0041ILABLE"]`), differ: onlyOurs},

		{name: "retry policy", js: retry(`3`, `"0.1s"`, `"1s"`, `1.5`, `["UNAVAILABLE",4]`)},
		{name: "retry null", js: method(`"retryPolicy":null`)},
		{name: "retry empty", js: method(`"retryPolicy":{}`)},
		{name: "retry an array", js: method(`"retryPolicy":[]`)},
		{name: "retry attempts 1", js: retry(`1`, `"1s"`, `"1s"`, `1`, `[14]`)},
		{name: "retry attempts 2", js: retry(`2`, `"1s"`, `"1s"`, `1`, `[14]`)},
		{name: "retry attempts above the cap", js: retry(`100`, `"1s"`, `"1s"`, `1`, `[14]`)},
		{name: "retry attempts negative", js: retry(`-2`, `"1s"`, `"1s"`, `1`, `[14]`)},
		{name: "retry attempts null", js: retry(`null`, `"1s"`, `"1s"`, `1`, `[14]`)},
		{name: "retry attempts a fraction", js: retry(`2.5`, `"1s"`, `"1s"`, `1`, `[14]`)},
		{name: "retry initialBackoff zero", js: retry(`2`, `"0s"`, `"1s"`, `1`, `[14]`)},
		{name: "retry initialBackoff null", js: retry(`2`, `null`, `"1s"`, `1`, `[14]`)},
		{name: "retry maxBackoff negative", js: retry(`2`, `"1s"`, `"-1s"`, `1`, `[14]`)},
		{name: "retry initialBackoff above maxBackoff", js: retry(`2`, `"2s"`, `"1s"`, `1`, `[14]`)},
		{name: "retry multiplier below 1", js: retry(`2`, `"1s"`, `"1s"`, `0.001`, `[14]`)},
		{name: "retry multiplier zero", js: retry(`2`, `"1s"`, `"1s"`, `0`, `[14]`)},
		{name: "retry multiplier negative", js: retry(`2`, `"1s"`, `"1s"`, `-1`, `[14]`)},
		{name: "retry multiplier too large", js: retry(`2`, `"1s"`, `"1s"`, `1e400`, `[14]`)},
		{name: "retry every name", js: retry(`2`, `"1s"`, `"1s"`, `1`, `["OK","CANCELLED","UNKNOWN","INVALID_ARGUMENT","DEADLINE_EXCEEDED","NOT_FOUND","ALREADY_EXISTS","PERMISSION_DENIED","RESOURCE_EXHAUSTED","FAILED_PRECONDITION","ABORTED","OUT_OF_RANGE","UNIMPLEMENTED","INTERNAL","UNAVAILABLE","DATA_LOSS","UNAUTHENTICATED"]`)},
		{name: "retry every name but one", js: retry(`2`, `"1s"`, `"1s"`, `1`, `["CANCELLED","UNKNOWN","INVALID_ARGUMENT","DEADLINE_EXCEEDED","NOT_FOUND"]`)},
		{name: "retry every number", js: retry(`2`, `"1s"`, `"1s"`, `1`, `[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]`)},
		{name: "retry code twice", js: retry(`2`, `"1s"`, `"1s"`, `1`, `[14,"UNAVAILABLE",14]`)},
		{name: "retry no code", js: retry(`2`, `"1s"`, `"1s"`, `1`, `[]`)},
		{name: "retry codes null", js: retry(`2`, `"1s"`, `"1s"`, `1`, `null`)},
		{name: "retry code 17", js: retry(`2`, `"1s"`, `"1s"`, `1`, `[17]`)},
		{name: "retry code negative", js: retry(`2`, `"1s"`, `"1s"`, `1`, `[-1]`)},
		{name: "retry code in small letters", js: retry(`2`, `"1s"`, `"1s"`, `1`, `["unavailable"]`)},
		{name: "retry code as Go names it", js: retry(`2`, `"1s"`, `"1s"`, `1`, `["Unavailable"]`)},
		{name: "retry code CANCELED", js: retry(`2`, `"1s"`, `"1s"`, `1`, `["CANCELED"]`)},
		{name: "retry code a number as string", js: retry(`2`, `"1s"`, `"1s"`, `1`, `["14"]`)},
		{name: "retry code a fraction", js: retry(`2`, `"1s"`, `"1s"`, `1`, `[14.0]`)},
		// grpc-go: null is the code OK.
		{name: "retry code null", js: retry(`2`, `"1s"`, `"1s"`, `1`, `[null]`), differ: onlyGRPC},

		{name: "throttling", js: `{"methodConfig":[],"retryThrottling":{"maxTokens":1000,"tokenRatio":0.1}}`},
		{name: "throttling null", js: `{"methodConfig":[],"retryThrottling":null}`},
		{name: "throttling empty", js: `{"methodConfig":[],"retryThrottling":{}}`},
		{name: "throttling maxTokens zero", js: `{"methodConfig":[],"retryThrottling":{"maxTokens":0,"tokenRatio":0.1}}`},
		{name: "throttling maxTokens above 1000", js: `{"methodConfig":[],"retryThrottling":{"maxTokens":1001,"tokenRatio":0.1}}`},
		{name: "throttling maxTokens a fraction", js: `{"methodConfig":[],"retryThrottling":{"maxTokens":0.5,"tokenRatio":0.1}}`},
		{name: "throttling tokenRatio zero", js: `{"methodConfig":[],"retryThrottling":{"maxTokens":10,"tokenRatio":0}}`},
		{name: "throttling tokenRatio negative", js: `{"methodConfig":[],"retryThrottling":{"maxTokens":10,"tokenRatio":-0.1}}`},
		// gRFC A6: places beyond the third are ignored, which leaves 0.
		{name: "throttling tokenRatio below 0.001", js: `{"methodConfig":[],"retryThrottling":{"maxTokens":10,"tokenRatio":0.0009}}`, differ: onlyGRPC},
		// grpc-go returns before it checks this.
		{name: "throttling invalid without methodConfig", js: `{"retryThrottling":{"maxTokens":0,"tokenRatio":0}}`, differ: onlyGRPC},

		{name: "health check", js: `{"healthCheckConfig":{"serviceName":"s"}}`},
		{name: "health check empty", js: `{"healthCheckConfig":{}}`},
		{name: "health check null", js: `{"healthCheckConfig":null}`},
		{name: "health check a string", js: `{"healthCheckConfig":"s"}`},
		{name: "health check name a number", js: `{"healthCheckConfig":{"serviceName":1}}`},

		{name: "policy list", js: `{"loadBalancingConfig":[{"round_robin":{}}]}`},
		{name: "policy list null", js: `{"loadBalancingConfig":null}`},
		{name: "policy list empty", js: `{"loadBalancingConfig":[]}`},
		{name: "policy list an object", js: `{"loadBalancingConfig":{"round_robin":{}}}`},
		{name: "policy entry null", js: `{"loadBalancingConfig":[null,{"round_robin":{}}]}`},
		{name: "policy entry empty", js: `{"loadBalancingConfig":[{},{"round_robin":{}}]}`},
		{name: "policy entry of two", js: `{"loadBalancingConfig":[{"round_robin":{},"pick_first":{}}]}`},
		{name: "policy entry of two, behind the chosen", js: `{"loadBalancingConfig":[{"round_robin":{}},{"a":{},"b":{}}]}`},
		{name: "policy entry a string, behind the chosen", js: `{"loadBalancingConfig":[{"round_robin":{}},"a"]}`},
		{name: "policy unknown", js: `{"loadBalancingConfig":[{"no_such":{}}]}`},
		{name: "policy unknown, then known", js: `{"loadBalancingConfig":[{"no_such":7},{"` + parserPolicy + `":{"x": 1}}]}`},
		{name: "policy config null", js: `{"loadBalancingConfig":[{"` + parserPolicy + `":null}]}`},
		{name: "policy config refused", js: `{"loadBalancingConfig":[{"` + parserPolicy + `":{"bad":true}},{"round_robin":{}}]}`},
		{name: "policy without ParseConfig", js: `{"loadBalancingConfig":[{"` + plainPolicy + `":{"x":1}}]}`},
		{name: "policy in capitals", js: `{"loadBalancingConfig":[{"ROUND_ROBIN":{}}]}`},
		{name: "pick_first config refused", js: `{"loadBalancingConfig":[{"pick_first":{"shuffleAddressList":1}}]}`},
		{name: "legacy policy", js: `{"loadBalancingPolicy":"round_robin"}`},
		{name: "legacy policy in capitals", js: `{"loadBalancingPolicy":"ROUND_ROBIN"}`},
		{name: "legacy policy unknown", js: `{"loadBalancingPolicy":"no_such"}`},
		{name: "legacy policy null", js: `{"loadBalancingPolicy":null}`},
		{name: "legacy policy a number", js: `{"loadBalancingPolicy":1}`},
		{name: "legacy policy a number, with a list", js: `{"loadBalancingPolicy":1,"loadBalancingConfig":[{"round_robin":{}}]}`},
		{name: "legacy policy with ParseConfig", js: `{"loadBalancingPolicy":"` + parserPolicy + `"}`},
		{name: "legacy policy that refuses an empty config", js: `{"loadBalancingPolicy":"` + pickyPolicy + `"}`},
	}
	probes := []string{"/s/m", "/s/other", "/s/", "/t/m", "/a/b/m", "/a/m", "/u/m", ""}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			const maxAttempts = 6
			asked.take()
			theirs, theirErr := askGRPC(t, tt.js, maxAttempts)
			askedByGRPC := asked.take()
			ours, err := serviceconfig.Parser{MaxCallAttempts: maxAttempts}.Parse(tt.js)
			askedByUs := asked.take()
			switch tt.differ {
			case onlyOurs:
				require.NoError(t, err)
				require.Error(t, theirErr)
				return
			case onlyGRPC:
				require.Error(t, err)
				require.NoError(t, theirErr)
				return
			}
			assert.Equal(t, askedByGRPC, askedByUs, "what ParseConfig was given")
			if theirErr != nil {
				require.Error(t, err, "grpc-go says %v", theirErr)
				return
			}
			require.NoError(t, err)
			for _, method := range probes {
				assert.Equal(t, theirs(method), ours.Method(method).GRPC(), "method %q", method)
			}
		})
	}
}
