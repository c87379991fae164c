package proxy

import (
	"errors"
	"net/url"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// setProxies sets the environment's proxies, of which t alone has what it names.
func setProxies(t *testing.T, env map[string]string) {
	t.Helper()
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy", "REQUEST_METHOD"} {
		t.Setenv(name, "") // to be restored
		if value, ok := env[name]; ok {
			t.Setenv(name, value)
		} else {
			require.NoError(t, os.Unsetenv(name))
		}
	}
}

func TestFromEnvironment(t *testing.T) {
	const target = "a.example:443"
	tests := []struct {
		name string
		env  map[string]string
		want string // empty: none
	}{
		{"nothing", nil, ""},
		{"upper case", map[string]string{"HTTPS_PROXY": "http://p:1"}, "http://p:1"},
		{"lower case", map[string]string{"https_proxy": "http://p:1"}, "http://p:1"},
		{"both", map[string]string{"HTTPS_PROXY": "http://upper:1", "https_proxy": "http://lower:1"}, "http://lower:1"},
		{"empty lower case", map[string]string{"HTTPS_PROXY": "http://p:1", "https_proxy": ""}, "http://p:1"},
		{"without scheme", map[string]string{"HTTPS_PROXY": "p:3128"}, "http://p:3128"},
		{"without scheme and port", map[string]string{"HTTPS_PROXY": "p"}, "http://p"},
		{"address without scheme", map[string]string{"HTTPS_PROXY": "10.0.0.1:3128"}, "http://10.0.0.1:3128"},
		{"credentials", map[string]string{"HTTPS_PROXY": "https://u:p%40@p:1/"}, "https://u:p%40@p:1/"},
		{"socks", map[string]string{"HTTPS_PROXY": "socks5h://p"}, "socks5h://p"},
		{"for http only", map[string]string{"HTTP_PROXY": "http://p:1", "http_proxy": "http://p:1"}, ""},
		{"for http, as CGI", map[string]string{"HTTP_PROXY": "http://p:1", "REQUEST_METHOD": "GET"}, ""},
		{"as CGI", map[string]string{"HTTPS_PROXY": "http://p:1", "REQUEST_METHOD": "GET"}, "http://p:1"},
		{"for all", map[string]string{"ALL_PROXY": "http://p:1", "all_proxy": "http://p:1"}, ""},
		{"excepted", map[string]string{"HTTPS_PROXY": "http://p:1", "NO_PROXY": "a.example"}, ""},
		{"excepted in lower case", map[string]string{"HTTPS_PROXY": "http://p:1", "no_proxy": "a.example"}, ""},
		{"lower case exception first", map[string]string{"HTTPS_PROXY": "http://p:1", "NO_PROXY": "a.example", "no_proxy": "b.example"}, "http://p:1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			setProxies(t, tt.env)
			u, err := FromEnvironment().Choose(target)
			require.NoError(t, err)
			if tt.want == "" {
				assert.Nil(t, u)
				return
			}
			require.NotNil(t, u)
			assert.Equal(t, tt.want, u.String())
		})
	}
}

func TestNoProxy(t *testing.T) {
	tests := []struct {
		noProxy string
		proxied []string
		direct  []string
	}{
		{noProxy: "",
			proxied: []string{"a.example:443", "a.example", "10.0.0.1:443", "[2001:db8::1]:443", "2001:db8::1", "localhost.example:1"},
			direct:  []string{"localhost:443", "LocalHost:443", "localhost", ":443", "127.0.0.1:443", "127.9.9.9:443", "[::1]:443", "::1", "[::1%lo]:443"}},
		{noProxy: "*", direct: []string{"a.example:443", "10.0.0.1:443", "[2001:db8::1]:443"}},
		{noProxy: "example",
			proxied: []string{"example.org:443", "anexample:443"},
			direct:  []string{"example:443", "a.example:443", "b.a.example:1", "A.Example:443"}},
		{noProxy: ".example",
			proxied: []string{"example:443"},
			direct:  []string{"a.example:443", "b.a.example:443"}},
		{noProxy: "*.example",
			proxied: []string{"example:443"},
			direct:  []string{"a.example:443"}},
		{noProxy: "a.example:443",
			proxied: []string{"a.example:80", "b.example:443"},
			direct:  []string{"a.example:443", "b.a.example:443"}},
		{noProxy: "10.0.0.1",
			proxied: []string{"10.0.0.2:443", "10.0.0.11:443"},
			direct:  []string{"10.0.0.1:443"}},
		{noProxy: "10.0.0.1:443",
			proxied: []string{"10.0.0.1:80"},
			direct:  []string{"10.0.0.1:443"}},
		{noProxy: "10.0.0.0/8",
			proxied: []string{"11.0.0.1:443", "a.example:443"},
			direct:  []string{"10.200.3.4:443"}},
		{noProxy: "2001:db8::/32",
			proxied: []string{"[2001:db9::1]:443"},
			direct:  []string{"[2001:db8:1::1]:443", "2001:db8::7"}},
		{noProxy: "[2001:db8::1]:443",
			proxied: []string{"[2001:db8::1]:80"},
			direct:  []string{"[2001:db8::1]:443"}},
		{noProxy: "10.1.0.0/16 , b.example,, a.example ,/,:",
			proxied: []string{"c.example:443", "10.2.0.1:443"},
			direct:  []string{"a.example:443", "b.example:443", "10.1.2.3:443"}},
		{noProxy: "bücher.example",
			proxied: []string{"buecher.example:443"},
			direct:  []string{"bücher.example:443", "xn--bcher-kva.example:443"}},
	}
	for _, tt := range tests {
		t.Run(tt.noProxy, func(t *testing.T) {
			setProxies(t, map[string]string{"HTTPS_PROXY": "http://p:1", "NO_PROXY": tt.noProxy})
			choose := FromEnvironment()
			for _, target := range tt.proxied {
				u, err := choose(target)
				assert.NoError(t, err, target)
				assert.NotNil(t, u, target)
			}
			for _, target := range tt.direct {
				u, err := choose(target)
				assert.NoError(t, err, target)
				assert.Nil(t, u, target)
			}
		})
	}
}

// Each call reads the environment anew, and what it returned keeps what it read.
func TestFromEnvironmentReadsOnce(t *testing.T) {
	setProxies(t, map[string]string{"HTTPS_PROXY": "http://first:1"})
	first := FromEnvironment()
	t.Setenv("HTTPS_PROXY", "http://second:1")
	second := FromEnvironment()
	for want, choose := range map[string]Func{"first:1": first, "second:1": second} {
		u, err := choose("a.example:443")
		require.NoError(t, err)
		assert.Equal(t, want, u.Host)
	}
}

func TestEnvironmentThatIsNoURL(t *testing.T) {
	for _, value := range []string{
		"http://user:sec#ret@p:3128", "http://user:sec/ret@p:3128", "http://user:sec%zzret@p:3128", "user:sec#ret@p", "http://[::1:3128", "http://p:port", "http://", "://", " ", "mailto:x",
	} {
		t.Run(value, func(t *testing.T) {
			setProxies(t, map[string]string{"HTTPS_PROXY": value, "NO_PROXY": "b.example"})
			choose := FromEnvironment()
			u, err := choose("a.example:443")
			assert.Nil(t, u)
			require.ErrorContains(t, err, "HTTPS_PROXY")
			assert.ErrorContains(t, err, "percent-encoded")
			assert.NotContains(t, err.Error(), "sec", "it may be a password")

			for _, target := range []string{"b.example:443", "localhost:443"} {
				u, err = choose(target)
				assert.NoError(t, err, target)
				assert.Nil(t, u, target)
			}
		})
	}
}

func TestForTarget(t *testing.T) {
	const endpoint, other, inside = "a.example:443", "192.0.2.1:443", "10.0.0.1:443"
	via := func(t *testing.T, f Func, address string) string {
		t.Helper()
		u, err := f(address)
		require.NoError(t, err)
		return Redact(u)
	}

	t.Run("no function", func(t *testing.T) {
		f, err := Func(nil).ForTarget(endpoint)
		require.NoError(t, err)
		assert.Nil(t, f)
	})
	t.Run("endpoint excepted by name", func(t *testing.T) {
		setProxies(t, map[string]string{"HTTPS_PROXY": "http://p:1", "NO_PROXY": "a.example"})
		f, err := FromEnvironment().ForTarget(endpoint)
		require.NoError(t, err)
		assert.Nil(t, f, "its addresses take no proxy, which NO_PROXY does not list")
	})
	t.Run("address excepted", func(t *testing.T) {
		setProxies(t, map[string]string{"HTTPS_PROXY": "http://p:1", "NO_PROXY": "10.0.0.0/8"})
		f, err := FromEnvironment().ForTarget(endpoint)
		require.NoError(t, err)
		require.NotNil(t, f)
		assert.Equal(t, "http://p:1", via(t, f, endpoint))
		assert.Equal(t, "http://p:1", via(t, f, other))
		assert.Empty(t, via(t, f, inside))
	})
	t.Run("endpoint's proxy holds", func(t *testing.T) {
		f, err := Func(func(target string) (*url.URL, error) {
			return &url.URL{Scheme: "http", Host: "for-" + target}, nil
		}).ForTarget("a")
		require.NoError(t, err)
		assert.Equal(t, "http://for-a", via(t, f, "b"))
	})
	t.Run("errors", func(t *testing.T) {
		bad := errors.New("bad")
		f, err := Func(func(string) (*url.URL, error) { return nil, bad }).ForTarget(endpoint)
		assert.ErrorIs(t, err, bad)
		assert.Nil(t, f)

		f, err = Func(func(target string) (*url.URL, error) {
			if target == endpoint {
				return &url.URL{Scheme: "http", Host: "p"}, nil
			}
			return nil, bad
		}).ForTarget(endpoint)
		require.NoError(t, err)
		u, err := f(other)
		assert.ErrorIs(t, err, bad)
		assert.Nil(t, u)
	})
}

func TestChoose(t *testing.T) {
	const target = "a.example:443"
	giving := func(u *url.URL, err error) Func {
		return func(string) (*url.URL, error) { return u, err }
	}
	right, bad := &url.URL{Scheme: "http", User: url.UserPassword("user", "secret"), Host: "p:3128"}, errors.New("bad")
	for name, tt := range map[string]struct {
		f         Func
		want      *url.URL
		err       string
		permanent bool
	}{
		"no function":      {f: nil},
		"none":             {f: giving(nil, nil)},
		"one":              {f: giving(right, nil), want: right},
		"an error":         {f: giving(right, bad), err: `the choice of a proxy for "a.example:443": bad`},
		"a scheme unknown": {f: giving(&url.URL{Scheme: "ftp", User: right.User, Host: "p"}, nil), permanent: true, err: `proxy "ftp://p" for "a.example:443": scheme "ftp" is not supported: it is one of "http", "https", "socks5" and "socks5h"`},
	} {
		t.Run(name, func(t *testing.T) {
			u, err := tt.f.Choose(target)
			assert.Same(t, tt.want, u)
			if tt.err == "" {
				require.NoError(t, err)
				return
			}
			require.EqualError(t, err, tt.err)
			assert.Equal(t, tt.permanent, failure(t, err).Permanent())
			_, again := Func(func(string) (*url.URL, error) { return nil, err }).Choose(target)
			assert.Equal(t, err, again)
		})
	}
	t.Run("an environment that is of no use", func(t *testing.T) {
		setProxies(t, map[string]string{"HTTPS_PROXY": "http://user:sec/ret@p:1"})
		_, err := FromEnvironment().Choose(target)
		assert.True(t, failure(t, err).Permanent(), "it is read once")
	})
}
