package channelz_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/channelz"
	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// shownPage is what a program reads of the page's JSON.
type shownPage struct {
	Channels []shownChannel
	More     int
	Next     int64
}

type shownChannel struct {
	ID                           int64
	Target, State, Cause, Policy string
	ServiceConfig                map[string]any `json:"service_config"`
	From                         string         `json:"service_config_from"`
	Calls                        shownCalls
	Streams                      int
	Endpoints                    []shownEndpoint
	MoreEndpoints                int `json:"more_endpoints"`
	Transitions                  []struct{ From, To, Cause string }
	Failures                     []shownFailure
	Nested                       []int64
}

type shownCalls struct{ Started, Succeeded, Failed, Running int64 }

type shownEndpoint struct {
	Addr, State, Cause string
	NextAttempt        string `json:"next_attempt"`
	Calls              *shownCalls
	Failures           []shownFailure
	Dial               *struct {
		Outcome string
		Elapsed float64 `json:"elapsed_ms"`
		Steps   []struct {
			Phase, Error, Detail string
			Start                float64 `json:"start_ms"`
			Elapsed              float64 `json:"elapsed_ms"`
			Finished             bool
		}
	}
}

type shownFailure struct {
	Phase, Error, Hint string
	Permanent          bool
}

// at returns the endpoint with an address.
func (c *shownChannel) at(addr string) (found shownEndpoint) {
	for _, e := range c.Endpoints {
		if e.Addr == addr {
			found = e
		}
	}
	return found
}

// ask returns what the page answers.
func ask(h http.Handler, method, path, accept string) *http.Response {
	r := httptest.NewRequest(method, path, nil)
	if accept != "" {
		r.Header.Set("Accept", accept)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func bodyOf(t *testing.T, r *http.Response) string {
	t.Helper()
	body, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	return string(body)
}

// shown returns the page's picture of the channel with the target.
func shown(t *testing.T, h http.Handler, target string) shownChannel {
	t.Helper()
	var p shownPage
	require.NoError(t, json.NewDecoder(ask(h, "GET", "/", "application/json").Body).Decode(&p))
	for _, c := range p.Channels {
		if c.Target == target {
			return c
		}
	}
	require.Fail(t, "no such channel", "%q in %+v", target, p)
	return shownChannel{}
}

// roundRobin makes a plaintext channel over the addresses, with round_robin.
func roundRobin(t *testing.T, addrs []string, opts ...grpcdial.DialOption) *grpcdial.ClientConn {
	t.Helper()
	return overAll(t, addrs, append([]grpcdial.DialOption{grpcdial.WithInsecure()}, opts...)...)
}

// overAll is roundRobin with credentials among opts.
func overAll(t *testing.T, addrs []string, opts ...grpcdial.DialOption) *grpcdial.ClientConn {
	t.Helper()
	r := manual.NewBuilderWithScheme("page")
	var s resolver.State
	for _, a := range addrs {
		s.Endpoints = append(s.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: a}}})
	}
	r.InitialState(s)
	cc, err := grpcdial.NewClient("page:///"+t.Name(), append([]grpcdial.DialOption{grpcdial.WithResolvers(r),
		grpcdial.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}]}`)}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, cc.Close()) })
	return cc
}

// TestPage: what an operator reads of a channel with one backend that serves and one
// that is down.
func TestPage(t *testing.T) {
	h := channelz.Handler()
	up, down := backendtest.Start(t, "up"), backendtest.UnusedAddr(t)
	cc := roundRobin(t, []string{up.Addr, down})
	require.NoError(t, cc.AwaitReady(backendtest.Bounded(t)))
	for range 3 {
		_, err := backendtest.AskName(backendtest.Bounded(t), cc)
		require.NoError(t, err)
	}
	held, stop := context.WithCancel(backendtest.Bounded(t))
	ended := make(chan error)
	go func() {
		ended <- cc.Invoke(held, "/test.Backend/Hold", new(wrapperspb.StringValue), new(wrapperspb.StringValue))
	}()
	<-up.Held
	assert.Equal(t, 1, shown(t, h, "page:///"+t.Name()).Streams)
	stop()
	require.Equal(t, codes.Canceled, status.Code(<-ended))

	var c shownChannel
	backendtest.Eventually(t, func() bool {
		c = shown(t, h, "page:///"+t.Name())
		return len(c.Endpoints) == 2 && c.at(down).State == "TRANSIENT_FAILURE" && c.at(up.Addr).State == "READY"
	}, "both endpoints have been tried")
	assert.Equal(t, "READY", c.State)
	assert.Empty(t, c.Cause)
	assert.Equal(t, "round_robin", c.Policy)
	assert.Equal(t, "default", c.From)
	assert.Contains(t, c.ServiceConfig, "loadBalancingConfig")
	assert.Equal(t, shownCalls{Started: 4, Succeeded: 3, Failed: 1}, c.Calls)
	require.Len(t, c.Transitions, 2)
	assert.Equal(t, "READY", c.Transitions[1].To)

	one, two := c.at(up.Addr), c.at(down)
	require.NotNil(t, one.Calls)
	assert.EqualValues(t, 4, one.Calls.Started)
	require.NotNil(t, one.Dial)
	require.Len(t, one.Dial.Steps, 2)
	assert.Equal(t, "dial", one.Dial.Steps[0].Phase)
	assert.Equal(t, "http2", one.Dial.Steps[1].Phase)
	for _, s := range one.Dial.Steps {
		assert.True(t, s.Finished)
		assert.LessOrEqual(t, s.Start+s.Elapsed, one.Dial.Elapsed+0.001, "steps are within the dial")
	}
	assert.GreaterOrEqual(t, one.Dial.Steps[1].Start, one.Dial.Steps[0].Elapsed, "one after the other")

	require.Len(t, two.Failures, 1)
	assert.Equal(t, "dial", two.Failures[0].Phase)
	assert.Contains(t, two.Failures[0].Error, "refused")
	assert.Contains(t, two.Failures[0].Hint, "nothing listens there")
	assert.Equal(t, "failed", two.Dial.Outcome)

	html := bodyOf(t, ask(h, "GET", "/", "text/html"))
	for _, part := range []string{"page:///" + t.Name(), up.Addr, down, "connection refused", "nothing listens there", "round_robin", "TRANSIENT_FAILURE"} {
		assert.Contains(t, html, part)
	}
}

// TestPageAfterALoss: the cause of a lost connection stays on the page while the endpoint
// is connected again, and the channel's transitions have it.
func TestPageAfterALoss(t *testing.T) {
	h := channelz.Handler()
	b := backendtest.Start(t, "one")
	cc := roundRobin(t, []string{b.Addr})
	require.NoError(t, cc.AwaitReady(backendtest.Bounded(t)))
	b.Stop()
	backendtest.Eventually(t, func() bool {
		c := shown(t, h, "page:///"+t.Name())
		return c.State == "TRANSIENT_FAILURE" && strings.Contains(c.Cause, "refused") && len(c.Failures) == 1 && c.Endpoints[0].NextAttempt != ""
	}, "the page says why")
	b.Start()
	cc.ResetConnectBackoff()
	require.NoError(t, cc.AwaitReady(backendtest.Bounded(t)))
	backendtest.Eventually(t, func() bool {
		e := shown(t, h, "page:///"+t.Name()).Endpoints[0]
		return e.State == "READY" && len(e.Failures) == 1 && e.Cause == "" && e.Dial.Outcome == "ready"
	}, "the latest failure is remembered")
}

// TestPageIsSafe: texts of others are text on the page, no secret is on it, and nothing
// but the page's own script can run.
func TestPageIsSafe(t *testing.T) {
	h := channelz.Handler()
	const evil = `<img src=x onerror=alert(1)>"'</script><script>alert(2)</script>` + "\x1b[31m\u202e"
	refuse := func(context.Context, string) (net.Conn, error) { return nil, errors.New(evil) }
	hostile := roundRobin(t, []string{"evil" + evil}, grpcdial.WithContextDialer(refuse))
	hostile.Connect()
	proxy := backendtest.ServeRaw(t, func(c net.Conn) {
		_, _ = c.Read(make([]byte, 4096))
		_, _ = fmt.Fprintf(c, "HTTP/1.1 407 No alice hunter2hunter2 %s\r\n\r\n", base64.StdEncoding.EncodeToString([]byte("alice:hunter2hunter2")))
	})
	proxied, err := grpcdial.NewClient("passthrough:///a.test:443", grpcdial.WithInsecure(),
		grpcdial.WithProxy(func(string) (*url.URL, error) { return url.Parse("http://alice:hunter2hunter2@" + proxy) }))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, proxied.Close()) })
	proxied.Connect()

	var page, asJSON string
	backendtest.Eventually(t, func() bool {
		page, asJSON = bodyOf(t, ask(h, "GET", "/", "")), bodyOf(t, ask(h, "GET", "/", "application/json"))
		return strings.Contains(page, "onerror") && strings.Contains(page, "407")
	}, "both have failed")
	for _, body := range []string{page, asJSON} {
		assert.NotContains(t, body, "hunter2")
		assert.NotContains(t, body, "YWxpY2U6")
		assert.NotContains(t, body, "<img")
		assert.NotContains(t, body, "<script>alert")
		assert.NotRegexp(t, `[^\n\t\P{Cc}]|[\x{200e}\x{200f}\x{2028}-\x{202e}]`, body)
	}
	assert.NotRegexp(t, `<[^>]*\s(style|on[a-z]+)\s*=`, regexp.MustCompile(`(?s)<(script|style)>.*?</(script|style)>`).ReplaceAllString(page, ""), "nothing that the policy forbids")

	policy := ask(h, "GET", "/", "").Header.Get("Content-Security-Policy")
	assert.Contains(t, policy, "default-src 'none'")
	assert.NotContains(t, policy, "unsafe")
	for _, tag := range []string{"script", "style"} {
		parts := regexp.MustCompile(`(?s)<`+tag+`>(.*?)</`+tag+`>`).FindAllStringSubmatch(page, -1)
		require.Len(t, parts, 1, tag)
		sum := sha256.Sum256([]byte(parts[0][1]))
		assert.Contains(t, policy, tag+"-src 'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'")
	}
}

// TestPageMethods: GET and HEAD are answered, in the form that is asked for.
func TestPageMethods(t *testing.T) {
	h := channelz.Handler()
	for _, method := range []string{"POST", "PUT", "DELETE", "OPTIONS", "PATCH"} {
		r := ask(h, method, "/", "")
		assert.Equal(t, http.StatusMethodNotAllowed, r.StatusCode, method)
		assert.Equal(t, "GET, HEAD", r.Header.Get("Allow"))
	}
	r := ask(h, "HEAD", "/any/path", "")
	assert.Equal(t, http.StatusOK, r.StatusCode)
	assert.NotEmpty(t, r.Header.Get("Content-Length"))
	assert.Empty(t, bodyOf(t, r))
	assert.Equal(t, http.StatusBadRequest, ask(h, "GET", "/?from=x", "").StatusCode)

	const browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
	for accept, kind := range map[string]string{
		"":                                   "text/html; charset=utf-8",
		"*/*":                                "text/html; charset=utf-8",
		browser:                              "text/html; charset=utf-8",
		"application/json":                   "application/json",
		"Application/JSON; charset=utf-8":    "application/json",
		"application/json, text/html":        "text/html; charset=utf-8",
		"application/json, text/html;q=0.9":  "application/json",
		"application/json;q=0, */*":          "text/html; charset=utf-8",
		"application/json; q=0.5, text/html": "text/html; charset=utf-8",
		"application/json;q=x":               "text/html; charset=utf-8",
	} {
		r := ask(h, "GET", "/", accept)
		assert.Equal(t, kind, r.Header.Get("Content-Type"), accept)
		assert.Equal(t, "Accept", r.Header.Get("Vary"))
		assert.Equal(t, "no-store", r.Header.Get("Cache-Control"))
	}
}

// TestPageIsBounded: many channels, and channels of many endpoints.
func TestPageIsBounded(t *testing.T) {
	h := channelz.Handler()
	var addrs []string
	for i := range 60 {
		addrs = append(addrs, fmt.Sprintf("a%d:1", i))
	}
	fail := func(_ context.Context, addr string) (net.Conn, error) {
		if addr == "a59:1" {
			return nil, errors.New("the last one")
		}
		return backendtest.Hang(t.Context(), addr)
	}
	many := roundRobin(t, addrs, grpcdial.WithContextDialer(fail))
	many.Connect()
	backendtest.Eventually(t, func() bool {
		c := shown(t, h, "page:///"+t.Name())
		return len(c.Endpoints) == 50 && c.MoreEndpoints == 10 && c.Endpoints[0].Addr == "a59:1" && c.Endpoints[0].State == "TRANSIENT_FAILURE"
	}, "the endpoints in trouble come first")

	for range 30 {
		cc, err := grpcdial.NewClient("passthrough:///one-of-many", grpcdial.WithInsecure())
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, cc.Close()) })
	}
	seen, from, pages := 0, int64(0), 0
	for {
		var p shownPage
		require.NoError(t, json.NewDecoder(ask(h, "GET", fmt.Sprintf("/?from=%d", from), "application/json").Body).Decode(&p))
		pages++
		assert.LessOrEqual(t, len(p.Channels), 25)
		for _, c := range p.Channels {
			if c.Target == "passthrough:///one-of-many" {
				seen++
				assert.Equal(t, "IDLE", c.State)
			}
		}
		if from = p.Next; from == 0 {
			assert.Zero(t, p.More)
			break
		}
		assert.Positive(t, p.More)
	}
	assert.Equal(t, 30, seen)
	assert.Equal(t, 2, pages)
}
