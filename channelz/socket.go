package channelz

import (
	"crypto/tls"
	"fmt"
	"net"
	"time"

	channelzpb "google.golang.org/grpc/channelz/grpc_channelz_v1"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial/internal/channelzdata"
	"github.com/grpcdial/grpcdial/internal/text"
)

// socketProto sets every time and window, known or not: see timestamp.
func socketProto(r channelzdata.SocketRecord, summary bool) *channelzpb.Socket {
	n := &r.Counts
	data := &channelzpb.SocketData{
		StreamsStarted:                   n.StreamsStarted,
		StreamsSucceeded:                 n.StreamsSucceeded,
		StreamsFailed:                    n.StreamsFailed,
		MessagesSent:                     n.MessagesSent,
		MessagesReceived:                 n.MessagesReceived,
		KeepAlivesSent:                   n.KeepalivesSent,
		LastLocalStreamCreatedTimestamp:  timestamp(n.LastStream),
		LastRemoteStreamCreatedTimestamp: timestamp(time.Time{}), // servers do not open streams
		LastMessageSentTimestamp:         timestamp(n.LastSent),
		LastMessageReceivedTimestamp:     timestamp(n.LastReceived),
		LocalFlowControlWindow:           wrapperspb.Int64(n.SendWindow), // the side that may use it is "local"
		RemoteFlowControlWindow:          wrapperspb.Int64(n.ReceiveWindow),
		PeerMaxConcurrentStreams:         n.MaxStreams,
	}
	if n.GoAway {
		data.ReceivedGoawayError = wrapperspb.UInt32(n.GoAwayCode)
	}
	s := &channelzpb.Socket{Ref: socketRef(r.Ref), Data: data, RemoteName: r.RemoteName}
	if r.Peer == nil {
		return s
	}
	s.Local, s.Remote = addressProto(r.Peer.LocalAddr), addressProto(r.Peer.Addr)
	s.Security = securityProto(r.Peer.AuthInfo)
	if info, ok := r.Peer.AuthInfo.(credentials.TLSInfo); ok && !summary {
		data.Option = append(data.Option, &channelzpb.SocketOption{Name: "TLS version", Value: tls.VersionName(info.State.Version)})
	}
	return s
}

// addressProto drops the zone of an IPv6 address, for which the message has no
// place.
func addressProto(a net.Addr) *channelzpb.Address {
	switch a := a.(type) {
	case nil:
		return nil
	case *net.TCPAddr:
		ip := a.IP
		if v4 := ip.To4(); v4 != nil {
			ip = v4
		}
		return &channelzpb.Address{Address: &channelzpb.Address_TcpipAddress{
			TcpipAddress: &channelzpb.Address_TcpIpAddress{IpAddress: ip, Port: int32(a.Port)}}}
	case *net.UnixAddr:
		return &channelzpb.Address{Address: &channelzpb.Address_UdsAddress_{
			UdsAddress: &channelzpb.Address_UdsAddress{Filename: text.Line(a.Name)}}}
	default:
		return &channelzpb.Address{Address: &channelzpb.Address_OtherAddress_{
			OtherAddress: &channelzpb.Address_OtherAddress{Name: text.Target(a.Network() + ":" + a.String())}}}
	}
}

// securityProto describes how a connection is secured: for TLS by the cipher suite and
// the server's certificate, for other credentials by their own description, or else
// their name. crypto/tls does not report which certificate of this side's was used.
func securityProto(info credentials.AuthInfo) *channelzpb.Security {
	if t, ok := info.(credentials.TLSInfo); ok {
		security := &channelzpb.Security_Tls{}
		setCipher(security, t.State.CipherSuite)
		if certs := t.State.PeerCertificates; len(certs) > 0 {
			security.RemoteCertificate = certs[0].Raw
		}
		return &channelzpb.Security{Model: &channelzpb.Security_Tls_{Tls: security}}
	}
	if c, ok := info.(credentials.ChannelzSecurityInfo); ok {
		switch v := c.GetSecurityValue().(type) {
		case *credentials.TLSChannelzSecurityValue:
			return &channelzpb.Security{Model: &channelzpb.Security_Tls_{Tls: &channelzpb.Security_Tls{
				CipherSuite:       &channelzpb.Security_Tls_StandardName{StandardName: text.Line(v.StandardName)},
				LocalCertificate:  v.LocalCertificate,
				RemoteCertificate: v.RemoteCertificate,
			}}}
		case *credentials.OtherChannelzSecurityValue:
			other := &channelzpb.Security_OtherSecurity{Name: text.Line(v.Name)}
			if value, err := anypb.New(v.Value); err == nil {
				other.Value = value
			}
			return &channelzpb.Security{Model: &channelzpb.Security_Other{Other: other}}
		}
	}
	if info == nil || info.AuthType() == "insecure" {
		return nil
	}
	return &channelzpb.Security{Model: &channelzpb.Security_Other{Other: &channelzpb.Security_OtherSecurity{Name: text.Line(info.AuthType())}}}
}

// setCipher names a cipher suite as IANA does, or by its number if crypto/tls does
// not know it.
func setCipher(s *channelzpb.Security_Tls, id uint16) {
	for _, all := range [][]*tls.CipherSuite{tls.CipherSuites(), tls.InsecureCipherSuites()} {
		for _, c := range all {
			if c.ID == id {
				s.CipherSuite = &channelzpb.Security_Tls_StandardName{StandardName: c.Name}
				return
			}
		}
	}
	s.CipherSuite = &channelzpb.Security_Tls_OtherName{OtherName: fmt.Sprintf("0x%04X", id)}
}
