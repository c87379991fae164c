package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	channelzpb "google.golang.org/grpc/channelz/grpc_channelz_v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/grpcdial/grpcdial/internal/text"
)

// mostEntities bounds what is asked of a server's channelz, which may have any number.
const mostEntities = 10_000

// serverData is a server's channelz data, by ids. It is filled and read on one
// goroutine.
type serverData struct {
	client      channelzpb.ChannelzClient
	top         []*channelzpb.Channel
	channels    map[int64]*channelzpb.Channel
	subchannels map[int64]*channelzpb.Subchannel
	sockets     map[int64]*channelzpb.Socket
	servers     []*channelzpb.Server
	ofServer    map[int64][]int64 // the sockets of a server's clients
	asked       int
}

// channelz prints what a server's channelz service knows.
func channelz(ctx context.Context, c *commandLine, s stdio) int {
	limit := cmp.Or(c.timeout, defaultTimeout)
	ctx, stop := context.WithTimeoutCause(ctx, limit, fmt.Errorf("--timeout is %v", limit))
	defer stop()
	o, code := c.open(metadata.NewOutgoingContext(ctx, c.headers), s)
	if o == nil {
		return code
	}
	b := &serverData{
		client:      channelzpb.NewChannelzClient(o.cc),
		channels:    make(map[int64]*channelzpb.Channel),
		subchannels: make(map[int64]*channelzpb.Subchannel),
		sockets:     make(map[int64]*channelzpb.Socket),
		ofServer:    make(map[int64][]int64),
	}
	err := b.fill(metadata.NewOutgoingContext(ctx, c.headers))
	switch {
	case status.Code(err) == codes.Unimplemented:
		return o.fail(errors.New("the server has no channelz service: its program has to register it"))
	case err != nil:
		return o.fail(err)
	}
	o.close()
	if c.json {
		err = b.writeJSON(s.out)
	} else {
		w := treeWriter{serverData: b, paint: painter(s.out), events: c.verbose, now: time.Now()}
		_, err = io.WriteString(s.out, w.text())
	}
	if err != nil {
		return exitFailed
	}
	return exitOK
}

var errTooMany = fmt.Errorf("the server's channelz has more than %d entries", mostEntities)

// next counts a question.
func (b *serverData) next() error {
	if b.asked++; b.asked > mostEntities {
		return errTooMany
	}
	return nil
}

// fill asks for everything.
func (b *serverData) fill(ctx context.Context) error {
	for start, end := int64(0), false; !end; {
		page, err := b.client.GetTopChannels(ctx, &channelzpb.GetTopChannelsRequest{StartChannelId: start})
		if err = errors.Join(err, b.next()); err != nil {
			return err
		}
		for _, c := range page.GetChannel() {
			start = c.GetRef().GetChannelId() + 1
			b.top = append(b.top, c)
			if err := b.fillChannel(ctx, c); err != nil {
				return err
			}
		}
		end = page.GetEnd() || len(page.GetChannel()) == 0
	}
	for start, end := int64(0), false; !end; {
		page, err := b.client.GetServers(ctx, &channelzpb.GetServersRequest{StartServerId: start})
		if err = errors.Join(err, b.next()); err != nil {
			return err
		}
		for _, s := range page.GetServer() {
			start = s.GetRef().GetServerId() + 1
			b.servers = append(b.servers, s)
			if err := b.fillServer(ctx, s); err != nil {
				return err
			}
		}
		end = page.GetEnd() || len(page.GetServer()) == 0
	}
	return nil
}

func (b *serverData) fillChannel(ctx context.Context, c *channelzpb.Channel) error {
	id := c.GetRef().GetChannelId()
	if b.channels[id] != nil {
		return nil
	}
	b.channels[id] = c
	for _, ref := range c.GetChannelRef() {
		answer, err := b.client.GetChannel(ctx, &channelzpb.GetChannelRequest{ChannelId: ref.GetChannelId()})
		if err = errors.Join(gone(err), b.next()); err != nil {
			return err
		}
		if nested := answer.GetChannel(); nested != nil {
			if err := b.fillChannel(ctx, nested); err != nil {
				return err
			}
		}
	}
	for _, ref := range c.GetSubchannelRef() {
		answer, err := b.client.GetSubchannel(ctx, &channelzpb.GetSubchannelRequest{SubchannelId: ref.GetSubchannelId()})
		if err = errors.Join(gone(err), b.next()); err != nil {
			return err
		}
		sub := answer.GetSubchannel()
		if sub == nil {
			continue
		}
		b.subchannels[ref.GetSubchannelId()] = sub
		if err := b.fillSockets(ctx, sub.GetSocketRef()); err != nil {
			return err
		}
	}
	return b.fillSockets(ctx, c.GetSocketRef())
}

func (b *serverData) fillSockets(ctx context.Context, refs []*channelzpb.SocketRef) error {
	for _, ref := range refs {
		answer, err := b.client.GetSocket(ctx, &channelzpb.GetSocketRequest{SocketId: ref.GetSocketId()})
		if err = errors.Join(gone(err), b.next()); err != nil {
			return err
		}
		if s := answer.GetSocket(); s != nil {
			b.sockets[ref.GetSocketId()] = s
		}
	}
	return nil
}

func (b *serverData) fillServer(ctx context.Context, s *channelzpb.Server) error {
	if err := b.fillSockets(ctx, s.GetListenSocket()); err != nil {
		return err
	}
	id := s.GetRef().GetServerId()
	for start, end := int64(0), false; !end; {
		page, err := b.client.GetServerSockets(ctx, &channelzpb.GetServerSocketsRequest{ServerId: id, StartSocketId: start})
		if err = errors.Join(gone(err), b.next()); err != nil {
			return err
		}
		for _, ref := range page.GetSocketRef() {
			start = ref.GetSocketId() + 1
			b.ofServer[id] = append(b.ofServer[id], ref.GetSocketId())
		}
		if err := b.fillSockets(ctx, page.GetSocketRef()); err != nil {
			return err
		}
		end = page.GetEnd() || len(page.GetSocketRef()) == 0
	}
	return nil
}

// gone returns nil for an entry that has gone since it was listed.
func gone(err error) error {
	if status.Code(err) == codes.NotFound {
		return nil
	}
	return err
}

// treeWriter writes serverData as a tree.
type treeWriter struct {
	*serverData
	paint
	events bool
	now    time.Time
	out    strings.Builder
	shown  map[int64]bool // the channels that have been written: a server may nest them in a ring
}

func (w *treeWriter) text() string {
	for _, c := range w.top {
		w.channel(c, "")
	}
	for _, s := range w.servers {
		d := s.GetData()
		w.line("", w.bold("server "+strconv.FormatInt(s.GetRef().GetServerId(), 10)), s.GetRef().GetName(), calls(d))
		w.trace(d.GetTrace(), "  ")
		for _, ref := range s.GetListenSocket() {
			w.line("  ", "listens", cmp.Or(address(w.sockets[ref.GetSocketId()].GetLocal()), ref.GetName()))
		}
		for _, id := range w.ofServer[s.GetRef().GetServerId()] {
			w.socket(id, "  ")
		}
	}
	if w.out.Len() == 0 {
		return "channelz has no channel and no server\n"
	}
	return w.out.String()
}

// line writes a line of the parts that are not empty.
func (w *treeWriter) line(indent string, parts ...string) {
	var shown []string
	for _, p := range parts {
		if p != "" {
			shown = append(shown, p)
		}
	}
	w.out.WriteString(indent + strings.Join(shown, "  ") + "\n")
}

func (w *treeWriter) channel(c *channelzpb.Channel, indent string) {
	if id := c.GetRef().GetChannelId(); w.shown[id] {
		return
	} else if w.shown == nil {
		w.shown = map[int64]bool{id: true}
	} else {
		w.shown[id] = true
	}
	d := c.GetData()
	w.line(indent, w.bold("channel "+strconv.FormatInt(c.GetRef().GetChannelId(), 10)), text.Line(d.GetTarget()), w.stateName(d.GetState()), calls(d)+w.ago(d))
	w.trace(d.GetTrace(), indent+"  ")
	for _, ref := range c.GetChannelRef() {
		if nested := w.channels[ref.GetChannelId()]; nested != nil {
			w.channel(nested, indent+"  ")
		}
	}
	for _, ref := range c.GetSubchannelRef() {
		if s := w.subchannels[ref.GetSubchannelId()]; s != nil {
			d := s.GetData()
			w.line(indent+"  ", "subchannel "+strconv.FormatInt(ref.GetSubchannelId(), 10), text.Line(cmp.Or(d.GetTarget(), s.GetRef().GetName())), w.stateName(d.GetState()), calls(d)+w.ago(d))
			w.trace(d.GetTrace(), indent+"    ")
			for _, ref := range s.GetSocketRef() {
				w.socket(ref.GetSocketId(), indent+"    ")
			}
		}
	}
	for _, ref := range c.GetSocketRef() {
		w.socket(ref.GetSocketId(), indent+"  ")
	}
}

func (w *treeWriter) socket(id int64, indent string) {
	s := w.sockets[id]
	if s == nil {
		return
	}
	d := s.GetData()
	streams := fmt.Sprintf("%d streams", d.GetStreamsStarted())
	if open := d.GetStreamsStarted() - d.GetStreamsSucceeded() - d.GetStreamsFailed(); open > 0 {
		streams += fmt.Sprintf(", %d open", open)
	}
	if n := d.GetStreamsFailed(); n > 0 {
		streams += fmt.Sprintf(", %d failed", n)
	}
	secured := ""
	if tls := s.GetSecurity().GetTls(); tls != nil {
		secured = text.Line(cmp.Or(tls.GetStandardName(), tls.GetOtherName(), "TLS"))
	}
	w.line(indent, "socket "+strconv.FormatInt(id, 10), address(s.GetLocal())+" - "+address(s.GetRemote()), streams,
		fmt.Sprintf("%d messages sent, %d received", d.GetMessagesSent(), d.GetMessagesReceived()), secured)
}

// trace writes the latest events.
func (w *treeWriter) trace(t *channelzpb.ChannelTrace, indent string) {
	if !w.events {
		return
	}
	for _, e := range t.GetEvents() {
		line := text.Line(e.GetDescription())
		switch e.GetSeverity() {
		case channelzpb.ChannelTraceEvent_CT_WARNING:
			line = w.yellow(line)
		case channelzpb.ChannelTraceEvent_CT_ERROR:
			line = w.red(line)
		}
		w.line(indent, w.dim(e.GetTimestamp().AsTime().Local().Format(clock)), line)
	}
}

func (w *treeWriter) stateName(s *channelzpb.ChannelConnectivityState) string {
	name := s.GetState().String()
	switch s.GetState() {
	case channelzpb.ChannelConnectivityState_READY:
		return w.green(name)
	case channelzpb.ChannelConnectivityState_TRANSIENT_FAILURE:
		return w.red(name)
	case channelzpb.ChannelConnectivityState_CONNECTING:
		return w.yellow(name)
	}
	return w.dim(name)
}

// counted is implemented by the data of channels, subchannels and servers.
type counted interface {
	GetCallsStarted() int64
	GetCallsSucceeded() int64
	GetCallsFailed() int64
}

func calls(d counted) string {
	s := fmt.Sprintf("%d RPCs", d.GetCallsStarted())
	if running := d.GetCallsStarted() - d.GetCallsSucceeded() - d.GetCallsFailed(); running > 0 {
		s += fmt.Sprintf(", %d running", running)
	}
	if n := d.GetCallsFailed(); n > 0 {
		s += fmt.Sprintf(", %d failed", n)
	}
	return s
}

// ago says when the latest RPC began.
func (w *treeWriter) ago(d *channelzpb.ChannelData) string {
	at := d.GetLastCallStartedTimestamp()
	if d.GetCallsStarted() == 0 || at.GetSeconds() == 0 {
		return ""
	}
	return fmt.Sprintf(", the last %v ago", text.Round(max(0, w.now.Sub(at.AsTime()))))
}

func address(a *channelzpb.Address) string {
	switch a := a.GetAddress().(type) {
	case *channelzpb.Address_TcpipAddress:
		return net.JoinHostPort(net.IP(a.TcpipAddress.GetIpAddress()).String(), strconv.Itoa(int(a.TcpipAddress.GetPort())))
	case *channelzpb.Address_UdsAddress_:
		return text.Target("unix:" + a.UdsAddress.GetFilename())
	case *channelzpb.Address_OtherAddress_:
		return text.Target(a.OtherAddress.GetName())
	}
	return ""
}

// jsonChannelz is what channelz --json writes: the messages of grpc.channelz.v1 in
// protobuf's JSON.
type jsonChannelz struct {
	Channels    []json.RawMessage `json:"channels"`
	Subchannels []json.RawMessage `json:"subchannels"`
	Sockets     []json.RawMessage `json:"sockets"`
	Servers     []json.RawMessage `json:"servers"`
}

func (b *serverData) writeJSON(w io.Writer) error {
	out := jsonChannelz{Channels: []json.RawMessage{}, Subchannels: []json.RawMessage{}, Sockets: []json.RawMessage{}, Servers: []json.RawMessage{}}
	var err error
	add := func(to *[]json.RawMessage, m proto.Message) {
		raw, bad := protojson.Marshal(m)
		err = errors.Join(err, bad)
		*to = append(*to, escaped(raw))
	}
	for _, id := range sortedKeys(b.channels) {
		add(&out.Channels, b.channels[id])
	}
	for _, id := range sortedKeys(b.subchannels) {
		add(&out.Subchannels, b.subchannels[id])
	}
	for _, id := range sortedKeys(b.sockets) {
		add(&out.Sockets, b.sockets[id])
	}
	for _, s := range b.servers {
		add(&out.Servers, s)
	}
	return errors.Join(err, writeJSON(w, out))
}

func sortedKeys[V any](m map[int64]V) []int64 { return slices.Sorted(maps.Keys(m)) }
