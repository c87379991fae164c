package e2e_test

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	channelzpb "google.golang.org/grpc/channelz/grpc_channelz_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/channelz"
)

// exits collects the texts that leave the library about one channel, by the way that
// they take: the errors of the constructor, a wait and an RPC, the snapshot, the
// transitions, events, log records, channelz.
type exits struct {
	mu    sync.Mutex
	texts map[string][]string // guarded by mu
}

func (x *exits) add(way string, texts ...string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.texts[way] = append(x.texts[way], texts...)
}

// useChannel makes a channel and uses it until it has failed, or for a moment, and
// returns what was said about it.
func useChannel(t *testing.T, target string, opts ...grpcdial.DialOption) *exits {
	t.Helper()
	x := &exits{texts: make(map[string][]string)}
	trace := &grpcdial.DialTrace{Every: func(e grpcdial.DialEvent) {
		x.add("event", append(textsOf(e), e.String(), e.LogValue().String())...)
	}}
	opts = append(opts, grpcdial.WithDialTrace(trace), grpcdial.WithLogger(slog.New(&logHandler{x})),
		grpcdial.WithGiveUp(func(a grpcdial.Attempt) bool {
			x.add("attempt", append(textsOf(a), a.String())...)
			return true
		}))
	cc, err := grpcdial.NewClient(target, opts...)
	if err != nil {
		x.add("constructor", err.Error())
		return x
	}
	defer cc.Close()

	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	err = cc.AwaitReady(ctx)
	x.addError("wait", err)
	short, cancelShort := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancelShort()
	x.addError("wait cut", cc.AwaitReady(short))
	reply := new(wrapperspb.StringValue)
	x.addError("RPC", cc.Invoke(ctx, "/test.Backend/Name", new(wrapperspb.StringValue), reply))
	x.addError("RPC cut", cc.Invoke(short, "/test.Backend/Name", new(wrapperspb.StringValue), reply, grpc.WaitForReady(true)))
	x.add("snapshot", textsOf(cc.Snapshot())...)
	for c := range cc.Watch(ctx) {
		x.add("transition", textsOf(c)...)
		break
	}
	x.addChannelz(t, cc)
	return x
}

func (x *exits) addError(way string, err error) {
	if err != nil {
		x.add(way, append(textsOf(err), err.Error(), status.Convert(err).Message())...)
	}
}

// addChannelz adds what the channelz service says of all channels there are.
func (x *exits) addChannelz(t *testing.T, cc *grpcdial.ClientConn) {
	t.Helper()
	s := channelz.NewServer()
	top, err := s.GetTopChannels(t.Context(), &channelzpb.GetTopChannelsRequest{})
	require.NoError(t, err)
	x.add("channelz", textsOf(top)...)
	for _, c := range top.Channel {
		for _, ref := range c.SubchannelRef {
			sub, err := s.GetSubchannel(t.Context(), &channelzpb.GetSubchannelRequest{SubchannelId: ref.SubchannelId})
			if err != nil {
				continue // it is gone
			}
			x.add("channelz", textsOf(sub)...)
			for _, ref := range sub.Subchannel.SocketRef {
				if socket, err := s.GetSocket(t.Context(), &channelzpb.GetSocketRequest{SocketId: ref.SocketId}); err == nil {
					x.add("channelz", textsOf(socket)...)
				}
			}
		}
	}
}

// each calls f for each text. The lines of a DialError are texts of their own.
func (x *exits) each(f func(way, text string)) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for way, texts := range x.texts {
		for _, text := range texts {
			for line := range strings.SplitSeq(text, "\n\t") {
				f(way, line)
			}
		}
	}
}

// anywhere reports whether a text contains part.
func (x *exits) anywhere(part string) (found bool) {
	x.each(func(_, text string) { found = found || strings.Contains(text, part) })
	return found
}

// logHandler adds what a log record says.
type logHandler struct{ x *exits }

func (h *logHandler) Enabled(context.Context, slog.Level) bool { return true }
func (h *logHandler) WithAttrs([]slog.Attr) slog.Handler       { return h }
func (h *logHandler) WithGroup(string) slog.Handler            { return h }
func (h *logHandler) Handle(_ context.Context, r slog.Record) error {
	h.x.add("log", r.Message)
	r.Attrs(func(a slog.Attr) bool {
		if list, ok := a.Value.Any().([]string); ok {
			h.x.add("log", list...)
		}
		h.x.add("log", a.Value.String())
		return true
	})
	return nil
}

// textsOf returns the texts in a value of this module, or in a message: strings in its
// exported fields, and what errors say.
func textsOf(v any) (texts []string) {
	if m, ok := v.(proto.Message); ok {
		return messageTexts(m.ProtoReflect())
	}
	var walk func(v reflect.Value, depth int)
	walk = func(v reflect.Value, depth int) {
		if depth > 10 || !v.IsValid() {
			return
		}
		if v.CanInterface() {
			if err, ok := v.Interface().(error); ok && (v.Kind() != reflect.Pointer || !v.IsNil()) {
				texts = append(texts, err.Error())
			}
		}
		switch v.Kind() {
		case reflect.String:
			texts = append(texts, v.String())
		case reflect.Interface, reflect.Pointer:
			walk(v.Elem(), depth+1)
		case reflect.Slice:
			for i := range v.Len() {
				walk(v.Index(i), depth+1)
			}
		case reflect.Struct:
			if v.Type().PkgPath() != reflect.TypeFor[grpcdial.Snapshot]().PkgPath() {
				return // of others: certificates, errors that errors.As finds
			}
			for i := range v.NumField() {
				if v.Type().Field(i).IsExported() {
					walk(v.Field(i), depth+1)
				}
			}
		}
	}
	walk(reflect.ValueOf(v), 0)
	return texts
}

func messageTexts(m protoreflect.Message) (texts []string) {
	one := func(fd protoreflect.FieldDescriptor, v protoreflect.Value) {
		switch fd.Kind() {
		case protoreflect.StringKind:
			texts = append(texts, v.String())
		case protoreflect.MessageKind:
			texts = append(texts, messageTexts(v.Message())...)
		}
	}
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if !fd.IsList() {
			one(fd, v)
			return true
		}
		for i := range v.List().Len() {
			one(fd, v.List().Get(i))
		}
		return true
	})
	return texts
}

// TestTextsOf: the collector sees what it is for.
func TestTextsOf(t *testing.T) {
	e := &grpcdial.DialError{Target: "a", Err: fmt.Errorf("b"), Attempts: []grpcdial.Attempt{{Addr: "c", Err: &grpcdial.ProxyError{Body: "d"}}}}
	all := strings.Join(textsOf(e), "\n")
	for _, want := range []string{"a", "b", "c", "d"} {
		require.Contains(t, all, want)
	}
	m := &channelzpb.Channel{Ref: &channelzpb.ChannelRef{Name: "e"}, SubchannelRef: []*channelzpb.SubchannelRef{{Name: "f"}}}
	require.ElementsMatch(t, []string{"e", "f"}, textsOf(m))
}
