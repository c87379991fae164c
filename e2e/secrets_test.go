package e2e_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"html"
	"io"
	"net"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/h2test"
	"github.com/grpcdial/grpcdial/internal/proxytest"
)

// TestEchoedSecrets: what a proxy was sent as its user's name and password is in no
// text that leaves the library, wherever the proxy repeats it.
func TestEchoedSecrets(t *testing.T) {
	h2test.CheckLeaks(t)
	insecure := grpcdial.WithInsecure()
	ca := h2test.NewCA(t)
	secure := grpcdial.WithTransportCredentials(credentials.NewTLS(ca.ClientConfig("a.test")))

	for _, user := range []*url.Userinfo{
		url.UserPassword("alice", "hunter2"),
		url.UserPassword("al", "pw"), // too short to be masked within words
		url.UserPassword(`DOMAIN\alice`, `p"w & <x>/%:@`),
		url.UserPassword("", "only-a-password"),
		url.User("a-token-and-no-password"),
	} {
		name := user.Username()
		password, _ := user.Password()
		pair := name + ":" + password
		encoded := base64.StdEncoding.EncodeToString([]byte(pair))
		said := []string{"Proxy-Authorization: Basic " + encoded, pair, "user " + name + ", password " + password + ".",
			url.QueryEscape(name) + " " + url.QueryEscape(password), html.EscapeString(name) + " " + html.EscapeString(password)}
		secrets := []string{encoded, pair, password, url.QueryEscape(password), html.EscapeString(password), name}

		for _, echo := range said {
			for way, answer := range map[string]string{
				"status":      "HTTP/1.1 407 No " + echo + "\r\nContent-Length: 0\r\n\r\n",
				"body":        fmt.Sprintf("HTTP/1.1 502 Bad Gateway\r\nContent-Length: %d\r\n\r\n%s", len(echo), echo),
				"body's end":  "HTTP/1.1 502 Bad Gateway\r\n\r\n" + strings.Repeat("-", 1020) + echo,
				"challenge":   "HTTP/1.1 407 No\r\nProxy-Authenticate: " + encoded + ", " + echo + "\r\nContent-Length: 0\r\n\r\n",
				"no answer":   echo + "\r\n",
				"header":      "HTTP/1.1 200 OK\r\n" + echo + "\r\n",
				"tunnel":      "HTTP/1.1 200 OK\r\n\r\n" + echo,
				"HTTP/1":      "HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 400 " + echo + "\r\n\r\n",
				"GOAWAY":      "HTTP/1.1 200 OK\r\n\r\n" + goAwayFrame(http2.ErrCodeNo, echo),
				"GOAWAY late": "HTTP/1.1 200 OK\r\n\r\n" + settingsFrame + goAwayFrame(http2.ErrCodeNo, echo),
			} {
				t.Run(name+"/"+way+"/"+echo, func(t *testing.T) {
					addr := answering(t, answer)
					x := useChannel(t, "backend.test:443", insecure, viaURL("http", addr, user))
					assertNone(t, x, secrets)
					if way == "tunnel" || way == "HTTP/1" {
						assertNone(t, useChannel(t, "backend.test:443", secure, viaURL("http", addr, user)), secrets)
					}
				})
			}
		}
	}
	t.Run("certificate", func(t *testing.T) {
		// The proxy answers in place of the server, with a certificate for what it was sent.
		addr := proxytest.Serve(t, func(nc net.Conn) {
			_, _ = nc.Read(make([]byte, 4096))
			_, _ = io.WriteString(nc, "HTTP/1.1 200 OK\r\n\r\n")
			_ = tlsServer(nc, ca.Server("alice.hunter2.test")).Handshake()
		})
		x := useChannel(t, "backend.test:443", secure, viaURL("http", addr, url.UserPassword("alice", "hunter2")))
		assertNone(t, x, []string{"alice", "hunter2"})
	})
	t.Run("SOCKS", func(t *testing.T) {
		for _, scheme := range []string{"socks5", "socks5h"} {
			x := useChannel(t, "127.0.0.1:443", insecure, viaURL(scheme, answering(t, "hunter2!"), url.UserPassword("alice", "hunter2")))
			assertNone(t, x, []string{"alice", "hunter2"})
		}
	})
}

// TestPasswordsInURLs: a URL or a target with a password is shown without it.
func TestPasswordsInURLs(t *testing.T) {
	h2test.CheckLeaks(t)
	insecure := grpcdial.WithInsecure()
	fails := func(err error) grpcdial.DialOption {
		return grpcdial.WithContextDialer(func(context.Context, string) (net.Conn, error) { return nil, err })
	}
	chosen := func(err error) grpcdial.DialOption {
		return grpcdial.WithProxy(func(string) (*url.URL, error) { return nil, err })
	}
	reporting := func(err error) grpcdial.DialOption {
		r := manual.NewBuilderWithScheme("hand")
		r.BuildCallback = func(_ resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) { cc.ReportError(err) }
		return grpcdial.WithResolvers(r)
	}
	for _, password := range []string{"hunter2", "hun/ter2", "hun#ter2", "hun?ter2", "hun%zzter2", "hun ter2", "hun@ter2", `hun"ter2`, "hun:ter2", "7/hunter2"} {
		whole := "http://alice:" + password + "@proxy.test:3128"
		_, err := url.Parse(whole)
		if err == nil {
			err = &url.Error{Op: "Get", URL: whole, Err: errors.New("refused")}
		}
		for name, use := range map[string]func(t *testing.T) *exits{
			"WithProxy's error": func(t *testing.T) *exits { return useChannel(t, "a.test:443", insecure, chosen(err)) },
			"WithProxy's error, wrapped": func(t *testing.T) *exits {
				return useChannel(t, "a.test:443", insecure, chosen(fmt.Errorf("vault: %w", err)))
			},
			"WithProxy's error, as text": func(t *testing.T) *exits {
				return useChannel(t, "a.test:443", insecure, chosen(fmt.Errorf("vault: %v", err)))
			},
			"WithProxy's URL": func(t *testing.T) *exits {
				u, err := url.Parse(whole)
				if err != nil {
					u = &url.URL{Scheme: "http", Host: "alice:" + password + "@proxy.test:3128"} // put together, and wrong
				}
				u.Scheme = "ftp" // of no use
				return useChannel(t, "a.test:443", insecure, grpcdial.WithProxy(func(string) (*url.URL, error) { return u, nil }))
			},
			"dialer's error":   func(t *testing.T) *exits { return useChannel(t, "a.test:443", insecure, fails(err)) },
			"resolver's error": func(t *testing.T) *exits { return useChannel(t, "hand:///x", insecure, reporting(err)) },
			"builder's error": func(t *testing.T) *exits {
				return useChannel(t, "failing:///x", insecure, grpcdial.WithResolvers(failingBuilder{err}))
			},
		} {
			t.Run(name+"/"+password, func(t *testing.T) { assertNone(t, use(t), piecesOf(password)) })
		}

		for name, target := range map[string]string{
			"web":         whole,
			"passthrough": "passthrough:///alice:" + password + "@server.test:443",
			"bare":        "alice:" + password + "@server.test:443",
			"dns":         "dns:///alice:" + password + "@server.test:443",
			"authority":   "dns://alice:" + password + "@127.0.0.1:1/server.test:443",
			"unknown":     "nothing://alice:" + password + "@server.test:443/x",
			"no port":     "alice:" + password + "@server.test:",
		} {
			t.Run("target/"+name+"/"+password, func(t *testing.T) {
				assertNone(t, useChannel(t, target, insecure, grpcdial.WithLocalDNSResolution()), piecesOf(password))
				if !strings.ContainsAny(password, ` "`) { // else it cannot be known where it begins
					assertNone(t, useChannel(t, target, insecure, fails(errors.New("no way to "+target))), piecesOf(password))
				}
				assertNone(t, useChannel(t, target, insecure, fails(errors.New("no"))), piecesOf(password))
				assertNone(t, useChannel(t, target, insecure, viaURL("http", "127.0.0.1:1", nil)), piecesOf(password))
			})
		}
	}
}

// TestPasswordsInTheEnvironment: an HTTPS_PROXY that is no URL, or none of a proxy, is not
// quoted.
func TestPasswordsInTheEnvironment(t *testing.T) {
	h2test.CheckLeaks(t)
	for _, password := range []string{"hun/ter2", "hun#ter2", "hun%zzter2", "hun ter2", "hunter2"} {
		for _, scheme := range []string{"http://", "", "ftp://"} {
			t.Setenv("HTTPS_PROXY", scheme+"alice:"+password+"@127.0.0.1:1")
			x := useChannel(t, "a.test:443", grpcdial.WithInsecure())
			assert.True(t, x.anywhere("prox"))
			assertNone(t, x, piecesOf(password))
		}
	}
}

// assertNone checks that none of the secrets is anywhere, a short one as a word.
func assertNone(t *testing.T, x *exits, secrets []string) {
	t.Helper()
	x.each(func(way, text string) {
		for _, s := range secrets {
			if len(s) < 4 {
				assert.NotContains(t, strings.FieldsFunc(text, notInWord), s, "%s: %s", way, text)
			} else {
				assert.NotContains(t, text, s, way)
			}
		}
	})
}

func notInWord(r rune) bool {
	return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
}

// piecesOf are the parts of a password that would give it away.
func piecesOf(password string) (pieces []string) {
	for _, p := range strings.FieldsFunc(password, notInWord) {
		if len(p) >= 3 {
			pieces = append(pieces, p)
		}
	}
	return pieces
}
