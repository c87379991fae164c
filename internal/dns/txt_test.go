package dns

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grpcdial/grpcdial/internal/dnstest"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

func TestPercentage(t *testing.T) {
	records := []string{`grpc_config=[
		{"percentage":20,"clientLanguage":["java"],"serviceConfig":{"n":0}},
		{"percentage":30,"serviceConfig":{"n":1}},
		{"percentage":50,"serviceConfig":{"n":2}},
		{"serviceConfig":{"n":3}}]`}
	const clients = 1_000
	count := map[string]float64{}
	for client := range uint64(clients) {
		js, err := chooseConfig(records, rand.New(rand.NewPCG(client, 1)), nil)
		require.NoError(t, err)
		again, err := chooseConfig(records, rand.New(rand.NewPCG(client, 1)), nil)
		require.NoError(t, err)
		require.Equal(t, js, again)
		count[js]++
	}
	for js, want := range map[string]float64{`{"n":0}`: 0, `{"n":1}`: 0.3, `{"n":2}`: 0.35, `{"n":3}`: 0.35} {
		assert.InDelta(t, want, count[js]/clients, 0.05, js)
	}
}

// A channel keeps to the choice that it was given by chance.
func TestPercentageFallsOnceForAResolver(t *testing.T) {
	h2test.CheckLeaks(t)
	s := dnstest.Listen(t, dnstest.Zone{
		"one.test": {Addrs: []string{"192.0.2.1"}},
		"_grpc_config.one.test": {TXT: []string{
			`grpc_config=[{"percentage":50,"serviceConfig":{"n":1}},{"serviceConfig":{"n":2}}]`}},
	})
	cfg := brisk
	cfg.Refresh = time.Millisecond
	c := newChannel()
	r := build(t, NewBuilder(cfg), c, s.Addr(), "one.test")
	first := c.settled(t)
	for range 30 {
		next := c.nextUpdate(t)
		require.Equal(t, first.config(), next.config())
		require.Same(t, first.state.ServiceConfig, next.state.ServiceConfig, "it is parsed once")
	}
	r.Close()
}

func TestUnknownHostname(t *testing.T) {
	unknown := func() (string, error) { return "", errors.New("unknown") }
	js, err := chooseConfig([]string{`grpc_config=[{"clientHostname":[""],"serviceConfig":{"n":1}},{"serviceConfig":{"n":2}}]`},
		rand.New(rand.NewPCG(1, 1)), unknown)
	require.NoError(t, err)
	assert.Equal(t, `{"n":2}`, js)
}

func TestMalformedServiceConfigSaysWhy(t *testing.T) {
	h2test.CheckLeaks(t)
	s := dnstest.Listen(t, dnstest.Zone{"one.test": {Addrs: []string{"192.0.2.1"}}})
	for txt, want := range map[string]string{
		`grpc_config=what`:  "not a list of choices",
		`grpc_config=[] []`: "after the list",
		`grpc_config=[{"serviceConfig":{}},{"percentage":1}]`:     "choice 2 of 2: serviceConfig is missing",
		`grpc_config=[{"percentage":200,"serviceConfig":{}}]`:     "choice 1 of 1: percentage 200",
		`grpc_config=[{"clientLanguages":[],"serviceConfig":{}}]`: `"clientLanguages"`,
	} {
		s.Set("_grpc_config.one.test", dnstest.Records{TXT: []string{txt}})
		c := newChannel()
		build(t, NewBuilder(Config{}), c, s.Addr(), "one.test")
		update := c.settled(t)
		assert.Equal(t, []string{"192.0.2.1:443"}, update.addrs())
		require.NotNil(t, update.state.ServiceConfig, txt)
		assert.ErrorContains(t, update.state.ServiceConfig.Err, `TXT record of "_grpc_config.one.test"`)
		assert.ErrorContains(t, update.state.ServiceConfig.Err, want)
	}
}

// FuzzChooseConfig holds that what is chosen is a JSON object, and that it is
// chosen again.
func FuzzChooseConfig(f *testing.F) {
	f.Add(`[{"serviceConfig":{}}]`, uint64(1))
	f.Add(`[{"percentage":50,"clientLanguage":["go"],"clientHostname":["h"],"serviceConfig":{"a":[1]}}]`, uint64(2))
	f.Add(`[{"percentage":101}]`, uint64(3))
	f.Add(`null`, uint64(4))
	f.Add(`[null]`, uint64(5))
	f.Fuzz(func(t *testing.T, value string, seed uint64) {
		choose := func() (string, error) {
			return chooseConfig([]string{"grpc_config=" + value}, rand.New(rand.NewPCG(seed, 0)), func() (string, error) { return "h", nil })
		}
		js, err := choose()
		if again, _ := choose(); again != js {
			t.Fatalf("%q, then %q", js, again)
		}
		if err != nil || js == "" {
			return
		}
		var object map[string]json.RawMessage
		if err := json.Unmarshal([]byte(js), &object); err != nil {
			t.Fatalf("chose %q: %v", js, err)
		}
	})
}
