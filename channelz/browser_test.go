package channelz_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/channelz"
	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// TestBrowserPage: a real browser shows the page, renews it in place, and shows why when a
// backend dies. Nothing on it breaks its own security policy, it fits on a phone, and it is
// dark where the reader's system is.
func TestBrowserPage(t *testing.T) {
	b := startBrowser(t)
	server := httptest.NewServer(channelz.Handler())
	t.Cleanup(server.Close)
	ca := h2test.NewCA(t)
	secured := grpc.Creds(credentials.NewTLS(ca.ServerConfig("shop.example")))
	one, two := backendtest.Start(t, "one", secured), backendtest.Start(t, "two", secured)
	cc := overAll(t, []string{one.Addr, two.Addr}, grpcdial.WithTransportCredentials(credentials.NewTLS(ca.ClientConfig("shop.example"))))
	backendtest.AwaitNames(t, cc, "one", "two")

	tab := b.tab(t)
	tab.call(t, "Page.addScriptToEvaluateOnNewDocument", map[string]any{"source": `
		window.broken = [];
		addEventListener("securitypolicyviolation", e => broken.push(e.violatedDirective + " " + e.blockedURI));
		addEventListener("error", e => broken.push(String(e.message)));`})
	tab.call(t, "Page.navigate", map[string]any{"url": server.URL + "/debug/"})
	for _, part := range []string{"page:///" + t.Name(), one.Addr, two.Addr, "round_robin", "TLS 1.3", "SETTINGS"} {
		tab.await(t, "document.body.innerText.includes("+quote(part)+")")
	}
	assert.Equal(t, "2", tab.eval(t, "document.querySelectorAll('.endpoint .pill.s-READY').length"))
	assert.Equal(t, "6", tab.eval(t, "document.querySelectorAll('.waterfall .step svg rect:not(.track)').length"), "the phases of two dials")

	// It is renewed in place: the document stays, and what the reader has opened.
	tab.eval(t, `window.kept = 1; [...document.querySelectorAll("details")].pop().open = true`)
	started := tab.eval(t, `document.querySelector(".figures div:nth-child(4) dd").textContent`)
	_, err := backendtest.AskName(backendtest.Bounded(t), cc)
	require.NoError(t, err)
	tab.await(t, `document.querySelector(".figures div:nth-child(4) dd").textContent !== `+started)

	one.Stop()
	tab.await(t, `[...document.querySelectorAll(".endpoint")].some(e => e.innerText.includes(`+quote(one.Addr)+`) && e.innerText.includes("TRANSIENT_FAILURE") && e.innerText.includes("connection refused") && e.innerText.includes("nothing listens there"))`)
	assert.Equal(t, `"READY"`, tab.eval(t, `document.querySelector("h2 .pill").textContent`))
	two.Stop()
	tab.await(t, `document.querySelector("h2 .pill").textContent === "TRANSIENT_FAILURE" && document.querySelector(".channel > .why").innerText.includes("connection refused")`)
	assert.Equal(t, "1", tab.eval(t, "window.kept"), "the page was loaded again")
	assert.Equal(t, "true", tab.eval(t, `[...document.querySelectorAll("details")].pop().open`))
	assert.JSONEq(t, "[]", tab.eval(t, "window.broken"))

	light := tab.eval(t, "getComputedStyle(document.body).backgroundColor")
	tab.call(t, "Emulation.setEmulatedMedia", map[string]any{"features": []map[string]any{{"name": "prefers-color-scheme", "value": "dark"}}})
	assert.NotEqual(t, light, tab.eval(t, "getComputedStyle(document.body).backgroundColor"))
	tab.call(t, "Emulation.setDeviceMetricsOverride", map[string]any{"width": 375, "height": 800, "deviceScaleFactor": 2, "mobile": true})
	assert.Equal(t, "375", tab.eval(t, "document.documentElement.scrollWidth"), "nothing has to be scrolled sideways")

	server.CloseClientConnections()
	server.Close()
	tab.await(t, `document.getElementById("status").textContent.startsWith("no answer since")`)
}

// TestBrowserWithoutScript: the page is whole without JavaScript, and loads itself again.
func TestBrowserWithoutScript(t *testing.T) {
	b := startBrowser(t)
	server := httptest.NewServer(channelz.Handler())
	t.Cleanup(server.Close)
	backend := backendtest.Start(t, "late")
	backend.Stop()
	cc := roundRobin(t, []string{backend.Addr})
	cc.Connect()
	tab := b.tab(t)
	tab.call(t, "Emulation.setScriptExecutionDisabled", map[string]any{"value": true})
	tab.call(t, "Page.navigate", map[string]any{"url": server.URL})
	tab.await(t, `document.body.innerText.includes("connection refused")`)
	assert.Equal(t, "true", tab.eval(t, `document.getElementById("live").hidden`), "there is no button that does nothing")
	backend.Start()
	cc.ResetConnectBackoff()
	backendtest.AwaitNames(t, cc, backend.Name)
	tab.await(t, `document.querySelector("h2 .pill").textContent === "READY"`)
}

// quote is s as a JavaScript string.
func quote(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(fmt.Sprintf("a string has a JSON form: %v", err))
	}
	return string(bytes.TrimSpace(b))
}
