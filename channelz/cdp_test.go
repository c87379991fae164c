package channelz_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// browser is a headless Chromium, which is driven through a pipe (the Chrome DevTools
// Protocol with --remote-debugging-pipe: JSON messages that end with a zero byte).
type browser struct {
	out io.Writer

	mu      sync.Mutex
	last    int                    // guarded by mu: the id of the latest call
	waiting map[int]chan cdpAnswer // guarded by mu; nil once the browser has ended
}

type cdpAnswer struct {
	ID     int
	Result json.RawMessage
	Error  *struct{ Message string }
}

// startBrowser runs a browser until the test ends.
func startBrowser(t *testing.T) *browser {
	t.Helper()
	binary := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			binary = path
			break
		}
	}
	if binary == "" {
		t.Skip("Chromium is not installed: not checked")
	}
	toBrowser, out, err := os.Pipe()
	require.NoError(t, err)
	in, fromBrowser, err := os.Pipe()
	require.NoError(t, err)
	profile, err := os.MkdirTemp("", "grpcdial-browser")
	require.NoError(t, err)
	cmd := exec.Command(binary, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
		"--disable-background-networking", "--disable-extensions", "--user-data-dir="+profile, "--remote-debugging-pipe")
	cmd.ExtraFiles = []*os.File{toBrowser, fromBrowser}
	require.NoError(t, cmd.Start())
	require.NoError(t, toBrowser.Close())
	require.NoError(t, fromBrowser.Close())

	b := &browser{out: out, waiting: make(map[int]chan cdpAnswer)}
	var reading sync.WaitGroup
	reading.Go(func() { b.read(in) })
	t.Cleanup(func() {
		b.close(t, cmd)
		_ = out.Close()
		reading.Wait()
		_ = in.Close()
		// Processes of the browser's may write there for a moment longer.
		for end := time.Now().Add(time.Minute); os.RemoveAll(profile) != nil && time.Now().Before(end); {
			time.Sleep(50 * time.Millisecond)
		}
	})
	return b
}

// close ends the browser with its processes, so that they are done with its directory.
func (b *browser) close(t *testing.T, cmd *exec.Cmd) {
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	_, _ = b.send("", "Browser.close", nil)
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Log("the browser does not end, and is killed")
		_ = cmd.Process.Kill()
		<-ended
	}
}

// read gives the browser's answers to the calls that wait for them. Its events are
// dropped.
func (b *browser) read(in io.Reader) {
	r := bufio.NewReader(in)
	for {
		message, err := r.ReadBytes(0)
		if err != nil {
			break
		}
		var a cdpAnswer
		if json.Unmarshal(bytes.TrimSuffix(message, []byte{0}), &a) != nil || a.ID == 0 {
			continue
		}
		b.mu.Lock()
		c := b.waiting[a.ID]
		delete(b.waiting, a.ID)
		b.mu.Unlock()
		if c != nil {
			c <- a
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.waiting {
		close(c)
	}
	b.waiting = nil
}

// send sends a call to a session and returns where its answer comes.
func (b *browser) send(session, method string, params any) (<-chan cdpAnswer, error) {
	answer := make(chan cdpAnswer, 1)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.waiting == nil {
		return nil, io.ErrClosedPipe
	}
	b.last++
	message := map[string]any{"id": b.last, "method": method}
	if params != nil {
		message["params"] = params
	}
	if session != "" {
		message["sessionId"] = session
	}
	text, err := json.Marshal(message)
	if err != nil {
		return nil, err
	}
	b.waiting[b.last] = answer
	_, err = b.out.Write(append(text, 0))
	return answer, err
}

// tab is one page of the browser.
type tab struct {
	*browser
	session string
}

// tab opens an empty page.
func (b *browser) tab(t *testing.T) *tab {
	t.Helper()
	whole := &tab{browser: b}
	var made struct{ TargetID, SessionID string }
	require.NoError(t, json.Unmarshal(whole.call(t, "Target.createTarget", map[string]any{"url": "about:blank"}), &made))
	require.NoError(t, json.Unmarshal(whole.call(t, "Target.attachToTarget", map[string]any{"targetId": made.TargetID, "flatten": true}), &made))
	opened := &tab{b, made.SessionID}
	opened.call(t, "Page.enable", nil)
	return opened
}

// call has the page do something and returns its answer.
func (p *tab) call(t *testing.T, method string, params any) json.RawMessage {
	t.Helper()
	answer, err := p.send(p.session, method, params)
	require.NoError(t, err)
	select {
	case a, ok := <-answer:
		require.True(t, ok, "the browser has ended")
		require.Nil(t, a.Error, method)
		return a.Result
	case <-time.After(patience):
		require.Fail(t, "the browser does not answer", method)
		return nil
	}
}

// patience is how long a browser on a busy machine may take.
const patience = time.Minute

// eval returns the value of an expression on the page, as JSON; "null" if it throws.
func (p *tab) eval(t *testing.T, expression string) string {
	t.Helper()
	var result struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails json.RawMessage
	}
	require.NoError(t, json.Unmarshal(p.call(t, "Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true}), &result))
	if result.ExceptionDetails != nil {
		return "null"
	}
	return string(result.Result.Value)
}

// await waits until an expression is true on the page.
func (p *tab) await(t *testing.T, expression string) {
	t.Helper()
	for end := time.Now().Add(patience); p.eval(t, expression) != "true"; {
		if time.Now().After(end) {
			require.Fail(t, "it does not come to be", "%s\nThe page: %s", expression, p.eval(t, "document.body.innerText"))
		}
		time.Sleep(20 * time.Millisecond)
	}
}
