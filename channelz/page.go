package channelz

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/grpcdial/grpcdial/internal/live"
)

// Handler returns a page that shows every channel of the process as it is now: target,
// state and since when, endpoints with their latest failure and its hint, RPCs and their
// rates, streams, the service config in force, the latest transitions, and the phases of
// the latest dial of each endpoint to scale.
//
//	http.Handle("/debug/grpcdial", channelz.Handler())
//
// It answers GET and HEAD for every path that it is mounted at, with HTML or, for
// Accept: application/json, with JSON (docs/page.md has the fields). The page renews
// itself in place every two seconds, without JavaScript by a reload every five. It has at
// most 25 channels and 50 endpoints of each; ?from=ID begins at a channel.
//
// Nothing on it is a secret of the channel's: passwords in targets, proxies and errors are
// masked. It has addresses, host names, errors and names of certificates all the same, so
// mount it where only operators can look. The page loads nothing from elsewhere, cannot
// be framed, and runs no script but its own (Content-Security-Policy).
//
// From the first call of Handler on, each channel of the process keeps the steps of the
// latest dial of its endpoints, at most 64 endpoints with 24 steps each; dials before that
// are not shown. Nothing else is kept for it, and no RPC passes there. The handler may be
// used by any number of goroutines.
func Handler() http.Handler {
	live.Want()
	return &page{}
}

// page is the handler.
type page struct{ rates rates }

const (
	pageChannels  = 25 // on a page
	pageEndpoints = 50 // of a channel
)

func (p *page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", securityPolicy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	h.Set("Vary", "Accept")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.Set("Allow", "GET, HEAD")
		http.Error(w, "this page can be read only: GET or HEAD", http.StatusMethodNotAllowed)
		return
	}
	from, err := firstChannel(r)
	if err != nil {
		http.Error(w, "from is not the id of a channel", http.StatusBadRequest)
		return
	}
	var body bytes.Buffer
	shown := p.look(from)
	if wantsJSON(r.Header.Values("Accept")) {
		h.Set("Content-Type", "application/json")
		e := json.NewEncoder(&body)
		e.SetIndent("", "  ")
		err = e.Encode(shown)
	} else {
		h.Set("Content-Type", "text/html; charset=utf-8")
		err = pageTemplate.Execute(&body, view{shown})
	}
	if err != nil {
		http.Error(w, "the page cannot be put together: "+err.Error(), http.StatusInternalServerError)
		return
	}
	h.Set("Content-Length", strconv.Itoa(body.Len()))
	if r.Method == http.MethodGet {
		_, _ = io.Copy(w, &body)
	}
}

// firstChannel returns the id that the page is to begin at.
func firstChannel(r *http.Request) (int64, error) {
	if r.URL.RawQuery == "" || !r.URL.Query().Has("from") {
		return 0, nil
	}
	return strconv.ParseInt(r.URL.Query().Get("from"), 10, 64)
}

// wantsJSON reports whether Accept prefers JSON to HTML (RFC 9110 §12.5.1). Of two that
// are equal, and of none, HTML is taken, but for a bare application/json.
func wantsJSON(accept []string) bool {
	var asJSON, asHTML float64
	for _, header := range accept {
		for item := range strings.SplitSeq(header, ",") {
			kind, params, _ := strings.Cut(item, ";")
			switch strings.ToLower(strings.TrimSpace(kind)) {
			case "application/json":
				asJSON = max(asJSON, quality(params))
			case "text/html", "application/xhtml+xml":
				asHTML = max(asHTML, quality(params))
			}
		}
	}
	return asJSON > asHTML
}

// quality is the weight among the parameters of a media range.
func quality(params string) float64 {
	for p := range strings.SplitSeq(params, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(p), "=")
		if strings.EqualFold(strings.TrimSpace(name), "q") {
			q, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil || !(q >= 0 && q <= 1) {
				return 0
			}
			return q
		}
	}
	return 1
}
