package channelz

import (
	"context"

	"google.golang.org/grpc"
	channelzpb "google.golang.org/grpc/channelz/grpc_channelz_v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/grpcdial/grpcdial/internal/channelzdata"
)

const (
	defaultPage = 50      // channels on a page if the caller does not say
	pageBytes   = 2 << 20 // a page ends early at this size: clients accept 4 MiB by default
)

func init() { channelzdata.Keep() }

// Register registers the channelz service on s, as a generated Register function
// does: before s serves. A server on which a channelz service is registered already
// ends the program, which is grpc-go's way; see [Merge] to have both.
func Register(s grpc.ServiceRegistrar) {
	channelzpb.RegisterChannelzServer(s, NewServer())
}

// NewServer returns the service, for programs that register it themselves. It has
// no state of its own; any number may be made. Its methods may be called from any
// goroutine.
//
// GetChannel, GetSubchannel, GetSocket, GetServer and GetServerSockets
// answer NOT_FOUND for an id that is unknown or gone;
// a negative max_results is an INVALID_ARGUMENT. A page has 50 results unless
// asked otherwise, and fewer if they would take more than 2 MiB.
func NewServer() channelzpb.ChannelzServer { return &server{} }

// Merge returns a registrar that registers on s whatever is registered on it, but a
// channelz service merged with this package's: its lists have the entries of the
// other one first, and then ours.
//
//	service.RegisterChannelzServiceToServer(channelz.Merge(s))
//	admin.Register(channelz.Merge(s))
//
// grpc-go's admin package registers CSDS only on a *grpc.Server itself, so the
// second of these leaves CSDS out.
//
// The other service must give its entries ids below 1,000,000,000,000, which
// grpc-go's does.
func Merge(s grpc.ServiceRegistrar) grpc.ServiceRegistrar { return merging{s} }

type merging struct{ grpc.ServiceRegistrar }

func (m merging) RegisterService(desc *grpc.ServiceDesc, impl any) {
	other, ok := impl.(channelzpb.ChannelzServer)
	if _, ours := impl.(*server); ok && !ours && desc.ServiceName == channelzpb.Channelz_ServiceDesc.ServiceName {
		impl = &server{other: other}
	}
	m.ServiceRegistrar.RegisterService(desc, impl)
}

// server is the service.
type server struct {
	channelzpb.UnimplementedChannelzServer
	other channelzpb.ChannelzServer // whose entries come first; nil: none
}

func (s *server) GetTopChannels(ctx context.Context, req *channelzpb.GetTopChannelsRequest) (*channelzpb.GetTopChannelsResponse, error) {
	n, err := pageLength(req.GetMaxResults())
	if err != nil {
		return nil, err
	}
	resp := &channelzpb.GetTopChannelsResponse{End: true}
	if s.other != nil && req.GetStartChannelId() <= channelzdata.FirstID {
		if resp, err = s.otherTopChannels(ctx, req.GetStartChannelId(), n); err != nil || !resp.GetEnd() {
			return resp, err
		}
	}
	page, last := channelzdata.TopChannels(req.GetStartChannelId(), max(0, n-len(resp.GetChannel())), s.hasChannel(ctx))
	size := proto.Size(resp)
	resp.End = last
	for _, r := range page {
		c := channelProto(r)
		if size += proto.Size(c); size > pageBytes && len(resp.Channel) > 0 {
			resp.End = false
			break
		}
		resp.Channel = append(resp.Channel, c)
	}
	return resp, nil
}

func pageLength(asked int64) (int, error) {
	switch {
	case asked < 0:
		return 0, status.Errorf(codes.InvalidArgument, "max_results is %d; it must not be negative", asked)
	case asked == 0:
		return defaultPage, nil
	default:
		// The bound keeps a response to a useful size, and fits an int of 32 bits.
		return int(min(asked, 1<<20)), nil
	}
}

// otherTopChannels is a page of the other service's, with our channels that are
// nested in them.
func (s *server) otherTopChannels(ctx context.Context, start int64, n int) (*channelzpb.GetTopChannelsResponse, error) {
	resp, err := s.other.GetTopChannels(ctx, &channelzpb.GetTopChannelsRequest{StartChannelId: start, MaxResults: int64(n)})
	if err != nil {
		return nil, err
	}
	adopt(resp.GetChannel()...)
	return resp, nil
}

// adopt adds our channels to those of the other service in which they are nested.
func adopt(channels ...*channelzpb.Channel) {
	ours := channelzdata.Adopted()
	for _, c := range channels {
		c.ChannelRef = append(c.ChannelRef, channelRefs(ours[c.GetRef().GetChannelId()])...)
	}
}

// hasChannel returns a function that reports whether the other service has a channel
// with this id; nil if there is no other service.
func (s *server) hasChannel(ctx context.Context) func(id int64) bool {
	if s.other == nil {
		return nil
	}
	return func(id int64) bool {
		_, err := s.other.GetChannel(ctx, &channelzpb.GetChannelRequest{ChannelId: id})
		return err == nil
	}
}

func (s *server) GetChannel(ctx context.Context, req *channelzpb.GetChannelRequest) (*channelzpb.GetChannelResponse, error) {
	if r, ok := channelzdata.FindChannel(req.GetChannelId()); ok {
		return &channelzpb.GetChannelResponse{Channel: channelProto(r)}, nil
	}
	if s.other == nil {
		return nil, notFound("channel", req.GetChannelId())
	}
	resp, err := s.other.GetChannel(ctx, req)
	if err != nil {
		return nil, err
	}
	adopt(resp.GetChannel())
	return resp, nil
}

func (s *server) GetSubchannel(ctx context.Context, req *channelzpb.GetSubchannelRequest) (*channelzpb.GetSubchannelResponse, error) {
	if r, ok := channelzdata.FindSubchannel(req.GetSubchannelId()); ok {
		return &channelzpb.GetSubchannelResponse{Subchannel: subchannelProto(r)}, nil
	}
	if s.other != nil {
		return s.other.GetSubchannel(ctx, req)
	}
	return nil, notFound("subchannel", req.GetSubchannelId())
}

func (s *server) GetSocket(ctx context.Context, req *channelzpb.GetSocketRequest) (*channelzpb.GetSocketResponse, error) {
	if r, ok := channelzdata.FindSocket(req.GetSocketId()); ok {
		return &channelzpb.GetSocketResponse{Socket: socketProto(r, req.GetSummary())}, nil
	}
	if s.other != nil {
		return s.other.GetSocket(ctx, req)
	}
	return nil, notFound("socket", req.GetSocketId())
}

func (s *server) GetServers(ctx context.Context, req *channelzpb.GetServersRequest) (*channelzpb.GetServersResponse, error) {
	if s.other != nil {
		return s.other.GetServers(ctx, req)
	}
	if _, err := pageLength(req.GetMaxResults()); err != nil {
		return nil, err
	}
	return &channelzpb.GetServersResponse{End: true}, nil
}

func (s *server) GetServer(ctx context.Context, req *channelzpb.GetServerRequest) (*channelzpb.GetServerResponse, error) {
	if s.other != nil {
		return s.other.GetServer(ctx, req)
	}
	return nil, notFound("server", req.GetServerId())
}

func (s *server) GetServerSockets(ctx context.Context, req *channelzpb.GetServerSocketsRequest) (*channelzpb.GetServerSocketsResponse, error) {
	if s.other != nil {
		return s.other.GetServerSockets(ctx, req)
	}
	return nil, notFound("server", req.GetServerId())
}

func notFound(kind string, id int64) error {
	return status.Errorf(codes.NotFound, "there is no %s with id %d, or no more", kind, id)
}
