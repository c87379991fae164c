package main

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/grpcdial/grpcdial/internal/text"
)

// details are the details of a status as JSON. Those whose type is not known have it and
// their bytes.
func (o *client) details(s *status.Status) (all []json.RawMessage) {
	// The RPC's own time may be over.
	ctx, stop := context.WithTimeout(context.Background(), detailsTimeout)
	defer stop()
	for _, a := range s.Proto().GetDetails() {
		all = append(all, o.detail(messageTypes{ctx, o.descriptors}, a))
	}
	return all
}

// detailsTimeout is how long the server may take to describe the types of the details.
const detailsTimeout = 2 * time.Second

func (o *client) detail(types messageTypes, a *anypb.Any) json.RawMessage {
	if shown, err := o.marshal(types, a); err == nil {
		return shown
	}
	shown, err := json.MarshalIndent(map[string]string{"@type": text.Line(a.GetTypeUrl()), "@value": base64.StdEncoding.EncodeToString(a.GetValue())}, "", "  ")
	if err != nil {
		return json.RawMessage("null") // texts have a JSON form
	}
	return shown
}

// writeStatus writes a status other than OK, as grpcurl does.
func writeStatus(w io.Writer, p paint, s *status.Status, details []json.RawMessage) {
	fmt.Fprintf(w, "%s\n  Code: %s\n  Message: %s\n", p.red("ERROR:"), s.Code(), text.Line(s.Message()))
	if len(details) == 0 {
		return
	}
	fmt.Fprintln(w, "  Details:")
	for i, d := range details {
		fmt.Fprintf(w, "  %d)  %s\n", i+1, strings.ReplaceAll(string(d), "\n", "\n      "))
	}
}

// writeMetadata writes headers or trailers, in the order of their names.
func writeMetadata(w io.Writer, title string, md metadata.MD) {
	fmt.Fprintf(w, "\n%s:\n", title)
	lines := metadataLines(md)
	for _, l := range lines {
		fmt.Fprintf(w, "%s: %s\n", l.name, l.value)
	}
	if len(lines) == 0 {
		fmt.Fprintln(w, "(empty)")
	}
}

type metadataLine struct{ name, value string }

// metadataLines are the values of md, those of names in -bin in Base64.
func metadataLines(md metadata.MD) (all []metadataLine) {
	for name, values := range md {
		for _, v := range values {
			if strings.HasSuffix(name, "-bin") || !utf8.ValidString(v) {
				v = base64.StdEncoding.EncodeToString([]byte(v))
			}
			all = append(all, metadataLine{text.Line(name), text.Clean(v)})
		}
	}
	slices.SortStableFunc(all, func(a, b metadataLine) int { return cmp.Compare(a.name, b.name) })
	return all
}

// jsonCall is what call --json writes.
type jsonCall struct {
	jsonReport
	Method   string              `json:"method"`
	Headers  map[string][]string `json:"headers,omitempty"`
	Messages []json.RawMessage   `json:"messages"`
	Trailers map[string][]string `json:"trailers,omitempty"`
	Status   *jsonStatus         `json:"status,omitempty"`
}

type jsonStatus struct {
	Code    int               `json:"code"`
	Name    string            `json:"name"`
	Message string            `json:"message,omitempty"`
	Details []json.RawMessage `json:"details,omitempty"`
}

func callJSON(o *client, r *rpcResult) jsonCall {
	out := jsonCall{
		jsonReport: reportJSON(o.commandLine, o.report),
		Method:     text.Line(o.method),
		Headers:    metadataJSON(r.headers),
		Messages:   append([]json.RawMessage{}, r.messages...),
		Trailers:   metadataJSON(r.trailers),
	}
	if r.status != nil {
		out.Status = &jsonStatus{int(r.status.Code()), r.status.Code().String(), text.Line(r.status.Message()), r.details}
	}
	return out
}

func metadataJSON(md metadata.MD) map[string][]string {
	if len(md) == 0 {
		return nil
	}
	all := make(map[string][]string)
	for _, l := range metadataLines(md) {
		all[l.name] = append(all[l.name], l.value)
	}
	return all
}
