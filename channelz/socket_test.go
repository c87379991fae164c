package channelz_test

import (
	"context"
	"crypto/tls"
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	channelzpb "google.golang.org/grpc/channelz/grpc_channelz_v1"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial/channelz"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// socketOf returns what is served about a connection with this peer.
func socketOf(t *testing.T, p *peer.Peer, summary bool) *channelzpb.Socket {
	t.Helper()
	c := openChannel(t, "a")
	k := c.NewSubchannel(nil).NewSocket(p, "", nil)
	resp, err := channelz.NewServer().GetSocket(t.Context(), &channelzpb.GetSocketRequest{SocketId: idOf(k), Summary: summary})
	require.NoError(t, err)
	// What is served must be fit for the wire.
	b, err := proto.Marshal(resp)
	require.NoError(t, err)
	var out channelzpb.GetSocketResponse
	require.NoError(t, proto.Unmarshal(b, &out))
	return out.GetSocket()
}

// tlsPeer makes a real TLS connection and returns the client's view of it.
func tlsPeer(t *testing.T, ca *h2test.CA, server *tls.Config, version uint16) *peer.Peer {
	t.Helper()
	addr := listen(t, registerOurs, grpc.Creds(credentials.NewTLS(server)))
	config := ca.ClientConfig("localhost")
	config.MinVersion, config.MaxVersion = version, version
	cc, err := grpc.NewClient(addr, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, cc.Close()) })
	var p peer.Peer
	_, err = channelzpb.NewChannelzClient(cc).GetServers(t.Context(), &channelzpb.GetServersRequest{}, grpc.Peer(&p))
	require.NoError(t, err)
	return &p
}

func TestTLSSocket(t *testing.T) {
	ca := h2test.NewCA(t)
	server := ca.ServerConfig("localhost")
	leaf := server.Certificates[0].Certificate[0]
	for version, name := range map[uint16]string{tls.VersionTLS12: "TLS 1.2", tls.VersionTLS13: "TLS 1.3"} {
		p := tlsPeer(t, ca, server, version)
		s := socketOf(t, p, false)
		security := s.GetSecurity().GetTls()
		assert.Equal(t, tls.CipherSuiteName(p.AuthInfo.(credentials.TLSInfo).State.CipherSuite), security.GetStandardName())
		assert.NotEmpty(t, security.GetStandardName())
		assert.Equal(t, leaf, security.GetRemoteCertificate())
		assert.Empty(t, security.GetLocalCertificate())
		require.Len(t, s.GetData().GetOption(), 1)
		assert.Equal(t, "TLS version", s.GetData().GetOption()[0].GetName())
		assert.Equal(t, name, s.GetData().GetOption()[0].GetValue())
		assert.EqualValues(t, p.Addr.(*net.TCPAddr).Port, s.GetRemote().GetTcpipAddress().GetPort())

		assert.Empty(t, socketOf(t, p, true).GetData().GetOption(), "a summary has no options")
	}
}

// authInfo is that of credentials of a user's own.
type authInfo struct {
	name  string
	value credentials.ChannelzSecurityValue
}

func (a authInfo) AuthType() string                                    { return a.name }
func (a authInfo) GetSecurityValue() credentials.ChannelzSecurityValue { return a.value }

// plainInfo has a name and nothing besides.
type plainInfo string

func (a plainInfo) AuthType() string { return string(a) }

func TestSecurity(t *testing.T) {
	_, insecureInfo, err := insecure.NewCredentials().ClientHandshake(context.Background(), "", nil)
	require.NoError(t, err)
	for name, c := range map[string]struct {
		info credentials.AuthInfo
		want *channelzpb.Security
	}{
		"none":     {nil, nil},
		"insecure": {insecureInfo, nil},
		"a cipher suite unknown to crypto/tls": {
			credentials.TLSInfo{State: tls.ConnectionState{CipherSuite: 0xabcd}},
			&channelzpb.Security{Model: &channelzpb.Security_Tls_{Tls: &channelzpb.Security_Tls{
				CipherSuite: &channelzpb.Security_Tls_OtherName{OtherName: "0xABCD"}}}},
		},
		"an insecure cipher suite": {
			credentials.TLSInfo{State: tls.ConnectionState{CipherSuite: tls.TLS_RSA_WITH_RC4_128_SHA}},
			&channelzpb.Security{Model: &channelzpb.Security_Tls_{Tls: &channelzpb.Security_Tls{
				CipherSuite: &channelzpb.Security_Tls_StandardName{StandardName: "TLS_RSA_WITH_RC4_128_SHA"}}}},
		},
		"TLS of another make": {
			authInfo{"mine", &credentials.TLSChannelzSecurityValue{StandardName: "x", LocalCertificate: []byte("l"), RemoteCertificate: []byte("r")}},
			&channelzpb.Security{Model: &channelzpb.Security_Tls_{Tls: &channelzpb.Security_Tls{
				CipherSuite:      &channelzpb.Security_Tls_StandardName{StandardName: "x"},
				LocalCertificate: []byte("l"), RemoteCertificate: []byte("r")}}},
		},
		"other": {
			authInfo{"mine", &credentials.OtherChannelzSecurityValue{Name: "own"}},
			&channelzpb.Security{Model: &channelzpb.Security_Other{Other: &channelzpb.Security_OtherSecurity{Name: "own"}}},
		},
		"nothing to tell": {
			authInfo{"mine", nil},
			&channelzpb.Security{Model: &channelzpb.Security_Other{Other: &channelzpb.Security_OtherSecurity{Name: "mine"}}},
		},
		"a name only": {
			plainInfo("alts"),
			&channelzpb.Security{Model: &channelzpb.Security_Other{Other: &channelzpb.Security_OtherSecurity{Name: "alts"}}},
		},
	} {
		got := socketOf(t, &peer.Peer{AuthInfo: c.info}, false).GetSecurity()
		assert.True(t, proto.Equal(c.want, got), "%s: %v", name, got)
	}
	got := socketOf(t, &peer.Peer{AuthInfo: authInfo{"mine", &credentials.OtherChannelzSecurityValue{Name: "own", Value: wrapperspb.Int32(7)}}}, false)
	var value wrapperspb.Int32Value
	require.NoError(t, got.GetSecurity().GetOther().GetValue().UnmarshalTo(&value))
	assert.EqualValues(t, 7, value.GetValue())
}

func TestAddresses(t *testing.T) {
	tcp := func(ip []byte, port int32) *channelzpb.Address {
		return &channelzpb.Address{Address: &channelzpb.Address_TcpipAddress{TcpipAddress: &channelzpb.Address_TcpIpAddress{IpAddress: ip, Port: port}}}
	}
	v6 := net.ParseIP("2001:db8::1")
	for name, c := range map[string]struct {
		addr net.Addr
		want *channelzpb.Address
	}{
		"none": {nil, nil},
		"v4":   {&net.TCPAddr{IP: net.IPv4(1, 2, 3, 4), Port: 80}, tcp([]byte{1, 2, 3, 4}, 80)},
		"v6":   {&net.TCPAddr{IP: v6, Port: 80, Zone: "lo"}, tcp(v6, 80)},
		"unix": {&net.UnixAddr{Name: "/a/b", Net: "unix"}, &channelzpb.Address{Address: &channelzpb.Address_UdsAddress_{UdsAddress: &channelzpb.Address_UdsAddress{Filename: "/a/b"}}}},
		"other": {&net.IPAddr{IP: v6}, &channelzpb.Address{Address: &channelzpb.Address_OtherAddress_{
			OtherAddress: &channelzpb.Address_OtherAddress{Name: "ip:2001:db8::1"}}}},
	} {
		s := socketOf(t, &peer.Peer{Addr: c.addr, LocalAddr: c.addr}, false)
		assert.True(t, proto.Equal(c.want, s.GetRemote()), "%s: %v", name, s.GetRemote())
		assert.True(t, proto.Equal(c.want, s.GetLocal()), "%s: %v", name, s.GetLocal())
	}
}
