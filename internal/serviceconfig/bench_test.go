package serviceconfig_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/grpcdial/grpcdial/internal/serviceconfig"
)

const benchConfig = `{"loadBalancingConfig":[{"round_robin":{}}],"methodConfig":[
	{"name":[{"service":"helloworld.Greeter","method":"SayHello"}],"timeout":"1s"},
	{"name":[{"service":"helloworld.Greeter"}],"waitForReady":true},
	{"name":[{}],"retryPolicy":{"maxAttempts":3,"initialBackoff":"0.1s","maxBackoff":"1s","backoffMultiplier":2,"retryableStatusCodes":["UNAVAILABLE"]}}]}`

// lookups are method names by the entry of benchConfig that they find.
var lookups = []struct{ name, method string }{
	{"Exact", "/helloworld.Greeter/SayHello"},
	{"Service", "/helloworld.Greeter/SayHelloAgain"},
	{"Default", "/routeguide.RouteGuide/GetFeature"},
}

func TestMethodDoesNotAllocate(t *testing.T) {
	c := parse(t, benchConfig)
	for _, l := range lookups {
		var m serviceconfig.MethodConfig
		assert.Zero(t, testing.AllocsPerRun(100, func() { m = c.Method(l.method) }), l.name)
		assert.NotZero(t, m, l.name)
	}
}

func BenchmarkMethod(b *testing.B) {
	for _, l := range lookups {
		b.Run(l.name, func(b *testing.B) { benchmarkMethod(b, parse(b, benchConfig), l.method) })
	}
	b.Run("EmptyConfig", func(b *testing.B) { benchmarkMethod(b, parse(b, `{}`), lookups[0].method) })
}

func benchmarkMethod(b *testing.B, c *serviceconfig.Config, method string) {
	b.ReportAllocs()
	for b.Loop() {
		c.Method(method)
	}
}

func BenchmarkParse(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := serviceconfig.Parse(benchConfig); err != nil {
			b.Fatal(err)
		}
	}
}
