package serviceconfig

import (
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
)

func FuzzParse(f *testing.F) {
	for _, js := range []string{
		``, `null`, `{}`, `[]`, `{"methodConfig":null}`,
		`{"methodConfig":[{"name":[{"service":"s","method":"m"},{"service":"s"},{}],"waitForReady":true,"timeout":"-1.000000001s"}]}`,
		`{"methodConfig":[{"name":[{"service":"/\u0000\ud800"}],"maxRequestMessageBytes":"1e3","maxResponseMessageBytes":0}]}`,
		`{"methodConfig":[{"name":[{"service":"s"}],"retryPolicy":{"maxAttempts":3,"initialBackoff":"0.1s","maxBackoff":"315576000000s","backoffMultiplier":1e300,"retryableStatusCodes":["UNAVAILABLE",4]}}]}`,
		`{"loadBalancingConfig":[{"no_such":{}},{"round_robin":null}],"loadBalancingPolicy":"pick_first"}`,
		`{"methodConfig":[{"name":[{"service":"s"}],"hedgingPolicy":{"maxAttempts":4,"hedgingDelay":"0.01s","nonFatalStatusCodes":["UNAVAILABLE"]}}],"connectionScaling":{"maxConnectionsPerSubchannel":3}}`,
		`{"methodConfig":[{"name":[],"retryPolicy":{"maxAttempts":2,"initialBackoff":"1s","maxBackoff":"1s","backoffMultiplier":2,"perAttemptRecvTimeout":"0.2s"}}]}`,
		`{"loadBalancingConfig":[{"pick_first":{"shuffleAddressList":true}}]}`,
		`{"loadBalancingConfig":[{"no_such":{}},{"pick_first":{}}],"loadBalancingConfig":[{"round_robin":{}},{}],"loadBalancingPolicy":5,"loadBalancingPolicy":"x"}`,
		`{"retryThrottling":{"maxTokens":1000,"tokenRatio":0.1239},"healthCheckConfig":{"serviceName":"h"}}`,
	} {
		f.Add(js)
	}
	f.Fuzz(func(t *testing.T, js string) {
		c, err := Parse(js)
		if err != nil {
			require.Nil(t, c)
			var e *Error
			require.True(t, errors.As(err, &e))
			require.True(t, strings.HasPrefix(err.Error(), "service config: "))
			return
		}
		d, err := Parser{}.Document(js)
		if err == nil { // there may be elements in it that Parse does not look at
			text, err := d.JSON()
			require.NoError(t, err)
			second, err := Parser{}.Document(text)
			require.NoError(t, err, text)
			textAgain, err := second.JSON()
			require.NoError(t, err)
			require.Equal(t, text, textAgain)
			made, err := Parse(text)
			require.NoError(t, err, text)
			require.Equal(t, len(c.methods), len(made.methods), text)
			for key := range c.methods {
				require.Equal(t, c.Method(key), made.Method(key), text)
			}
		}
		again, err := Parse(c.JSON)
		require.NoError(t, err)
		require.True(t, Equal(c, again))
		require.Equal(t, c.RetryThrottling, again.RetryThrottling)
		require.Equal(t, c.HealthCheck, again.HealthCheck)
		require.Equal(t, c.UnknownPolicy, again.UnknownPolicy)
		require.Equal(t, c.LB == nil, again.LB == nil)
		if c.LB != nil {
			require.Equal(t, c.LB.Name, again.LB.Name)
		}

		// The methods go through grpc-go's type and through text of our own. A
		// service whose name begins with a slash has no key of its own there.
		methods := make(map[string]grpc.MethodConfig)
		for key := range c.methods {
			require.Equal(t, c.Method(key), again.Method(key))
			if validKey(key) && inGRPCsType(c.Method(key)) {
				methods[key] = c.Method(key).GRPC()
			}
		}
		made, err := FromMethods(nil, methods)
		require.NoError(t, err)
		read, err := Parse(made.JSON)
		require.NoError(t, err, made.JSON)
		for key := range methods {
			require.Equal(t, c.Method(key), made.Method(key))
			require.Equal(t, c.Method(key), read.Method(key), made.JSON)
		}
	})
}

// inGRPCsType reports whether grpc-go's type can say all of m.
func inGRPCsType(m MethodConfig) bool {
	return m.HedgingPolicy == nil && (m.RetryPolicy == nil || m.RetryPolicy.PerAttemptRecvTimeout == 0)
}
