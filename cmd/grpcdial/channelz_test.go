package main

import (
	"encoding/json"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	channelzpb "google.golang.org/grpc/channelz/grpc_channelz_v1"
	channelzservice "google.golang.org/grpc/channelz/service"
	grpchealth "google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/grpcdial/grpcdial"
	ours "github.com/grpcdial/grpcdial/channelz"
)

// TestChannelz: what a server's channelz service knows, of grpc-go's servers and of our
// channels.
func TestChannelz(t *testing.T) {
	backend := serve(t, "")
	s := &server{Server: grpc.NewServer(), health: grpchealth.NewServer()}
	healthpb.RegisterHealthServer(s, s.health)
	channelzservice.RegisterChannelzServiceToServer(ours.Merge(s))
	s.start(t, "")
	cc, err := grpcdial.NewClient(backend.addr, grpcdial.WithInsecure())
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, cc.Close()) })
	for range 3 {
		_, err := healthpb.NewHealthClient(cc).Check(t.Context(), &healthpb.HealthCheckRequest{})
		require.NoError(t, err)
	}

	o := command(t, "channelz", "--plaintext", s.addr)
	require.Equal(t, exitOK, o.code, o.stderr)
	port := regexp.QuoteMeta(backend.addr)
	assert.Regexp(t, `(?m)^channel 1\d+  `+port+`  READY  3 RPCs, the last \S+ ago
  subchannel 1\d+  `+port+`  READY  3 RPCs, the last \S+ ago
    socket 1\d+  127\.0\.0\.1:\d+ - `+port+`  3 streams  3 messages sent, 3 received$`, o.stdout)
	assert.Regexp(t, `(?m)^server \d+  .*RPCs`, o.stdout)
	assert.Contains(t, o.stdout, "  listens  "+s.addr+"\n")
	assert.NotContains(t, o.stdout, "Subchannel Created")

	o = command(t, "channelz", "--plaintext", "-v", s.addr)
	assert.Regexp(t, `(?m)^  \d\d:\d\d:\d\d\.\d{3}  Channel Created$`, o.stdout)

	o = command(t, "channelz", "--plaintext", "--json", s.addr)
	require.Equal(t, exitOK, o.code)
	var got struct {
		Channels, Subchannels, Sockets, Servers []struct {
			Data map[string]any
		}
	}
	require.NoError(t, json.Unmarshal([]byte(o.stdout), &got))
	assert.NotEmpty(t, got.Channels)
	assert.NotEmpty(t, got.Subchannels)
	assert.NotEmpty(t, got.Sockets)
	assert.NotEmpty(t, got.Servers)

	o = command(t, "channelz", "--plaintext", backend.addr)
	assert.Equal(t, exitFailed, o.code)
	assert.Contains(t, o.stderr, "no channelz service")
	o = command(t, "channelz", "--plaintext", "127.0.0.1:1")
	assert.Equal(t, exitFailed, o.code)
	assert.Contains(t, o.stderr, "nothing listens there")
}

// TestChannelzTree: the drawing, of what a server may answer: nested channels, failures,
// events, sockets of several kinds, and texts that are meant for a terminal.
func TestChannelzTree(t *testing.T) {
	at := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	b := &serverData{channels: map[int64]*channelzpb.Channel{}, subchannels: map[int64]*channelzpb.Subchannel{}, sockets: map[int64]*channelzpb.Socket{}, ofServer: map[int64][]int64{}}
	state := func(s channelzpb.ChannelConnectivityState_State) *channelzpb.ChannelConnectivityState {
		return &channelzpb.ChannelConnectivityState{State: s}
	}
	nested := &channelzpb.Channel{Ref: &channelzpb.ChannelRef{ChannelId: 2}, Data: &channelzpb.ChannelData{Target: "lookup", State: state(channelzpb.ChannelConnectivityState_IDLE)}}
	top := &channelzpb.Channel{
		Ref: &channelzpb.ChannelRef{ChannelId: 1},
		Data: &channelzpb.ChannelData{Target: "dns:///a.test:443\x1b[31m", State: state(channelzpb.ChannelConnectivityState_TRANSIENT_FAILURE), CallsStarted: 9, CallsSucceeded: 5, CallsFailed: 3,
			Trace: &channelzpb.ChannelTrace{Events: []*channelzpb.ChannelTraceEvent{{Description: "connect\nfailed\u202e", Severity: channelzpb.ChannelTraceEvent_CT_ERROR}}}},
		ChannelRef:    []*channelzpb.ChannelRef{{ChannelId: 2}},
		SubchannelRef: []*channelzpb.SubchannelRef{{SubchannelId: 3}, {SubchannelId: 99}},
	}
	b.top, b.channels[1], b.channels[2] = []*channelzpb.Channel{top}, top, nested
	b.subchannels[3] = &channelzpb.Subchannel{Ref: &channelzpb.SubchannelRef{SubchannelId: 3, Name: "192.0.2.1:443"}, Data: &channelzpb.ChannelData{State: state(channelzpb.ChannelConnectivityState_CONNECTING)},
		SocketRef: []*channelzpb.SocketRef{{SocketId: 4}}}
	b.sockets[4] = &channelzpb.Socket{Ref: &channelzpb.SocketRef{SocketId: 4}, Data: &channelzpb.SocketData{StreamsStarted: 5, StreamsSucceeded: 2, StreamsFailed: 1},
		Local:    &channelzpb.Address{Address: &channelzpb.Address_TcpipAddress{TcpipAddress: &channelzpb.Address_TcpIpAddress{IpAddress: []byte{192, 0, 2, 9}, Port: 4000}}},
		Remote:   &channelzpb.Address{Address: &channelzpb.Address_UdsAddress_{UdsAddress: &channelzpb.Address_UdsAddress{Filename: "/run/a.sock"}}},
		Security: &channelzpb.Security{Model: &channelzpb.Security_Tls_{Tls: &channelzpb.Security_Tls{CipherSuite: &channelzpb.Security_Tls_StandardName{StandardName: "TLS_AES_128_GCM_SHA256"}}}}}
	b.servers = []*channelzpb.Server{{Ref: &channelzpb.ServerRef{ServerId: 7, Name: "front"}, Data: &channelzpb.ServerData{CallsStarted: 2, CallsSucceeded: 2}}}
	w := treeWriter{serverData: b, events: true, now: at}
	assertGolden(t, "channelz-tree", w.text())
	empty := treeWriter{serverData: &serverData{}}
	assert.Equal(t, "channelz has no channel and no server\n", empty.text())
}
