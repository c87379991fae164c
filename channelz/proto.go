package channelz

import (
	"time"

	channelzpb "google.golang.org/grpc/channelz/grpc_channelz_v1"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/grpcdial/grpcdial/internal/channelzdata"
)

func channelProto(r channelzdata.ChannelRecord) *channelzpb.Channel {
	data := dataProto(r.State, r.Calls, r.Created, r.Logged, r.Events)
	data.Target = r.Name
	return &channelzpb.Channel{
		Ref:           channelRef(r.Ref),
		Data:          data,
		ChannelRef:    channelRefs(r.Nested),
		SubchannelRef: mapped(r.Subchannels, subchannelRef),
	}
}

func subchannelProto(r channelzdata.SubchannelRecord) *channelzpb.Subchannel {
	data := dataProto(r.State, r.Calls, r.Created, r.Logged, r.Events)
	data.Target = r.Name
	return &channelzpb.Subchannel{
		Ref:       subchannelRef(r.Ref),
		Data:      data,
		SocketRef: mapped(r.Sockets, socketRef),
	}
}

func dataProto(state connectivity.State, calls channelzdata.Calls, created time.Time, logged int64, events []channelzdata.Event) *channelzpb.ChannelData {
	return &channelzpb.ChannelData{
		State:                    &channelzpb.ChannelConnectivityState{State: stateProto(state)},
		CallsStarted:             calls.Started,
		CallsSucceeded:           calls.Succeeded,
		CallsFailed:              calls.Failed,
		LastCallStartedTimestamp: timestamp(calls.LastStarted),
		Trace: &channelzpb.ChannelTrace{
			NumEventsLogged:   logged,
			CreationTimestamp: timestamp(created),
			Events:            mapped(events, eventProto),
		},
	}
}

func stateProto(s connectivity.State) channelzpb.ChannelConnectivityState_State {
	switch s {
	case connectivity.Idle:
		return channelzpb.ChannelConnectivityState_IDLE
	case connectivity.Connecting:
		return channelzpb.ChannelConnectivityState_CONNECTING
	case connectivity.Ready:
		return channelzpb.ChannelConnectivityState_READY
	case connectivity.TransientFailure:
		return channelzpb.ChannelConnectivityState_TRANSIENT_FAILURE
	case connectivity.Shutdown:
		return channelzpb.ChannelConnectivityState_SHUTDOWN
	}
	return channelzpb.ChannelConnectivityState_UNKNOWN
}

func eventProto(e channelzdata.Event) *channelzpb.ChannelTraceEvent {
	p := &channelzpb.ChannelTraceEvent{
		Description: e.Text,
		Severity:    severityProto(e.Severity),
		Timestamp:   timestamp(e.Time),
	}
	switch {
	case e.Channel.ID != 0:
		p.ChildRef = &channelzpb.ChannelTraceEvent_ChannelRef{ChannelRef: channelRef(e.Channel)}
	case e.Subchannel.ID != 0:
		p.ChildRef = &channelzpb.ChannelTraceEvent_SubchannelRef{SubchannelRef: subchannelRef(e.Subchannel)}
	}
	return p
}

func severityProto(s channelzdata.Severity) channelzpb.ChannelTraceEvent_Severity {
	switch s {
	case channelzdata.Info:
		return channelzpb.ChannelTraceEvent_CT_INFO
	case channelzdata.Warning:
		return channelzpb.ChannelTraceEvent_CT_WARNING
	case channelzdata.Error:
		return channelzpb.ChannelTraceEvent_CT_ERROR
	}
	return channelzpb.ChannelTraceEvent_CT_UNKNOWN
}

func channelRef(r channelzdata.Ref) *channelzpb.ChannelRef {
	return &channelzpb.ChannelRef{ChannelId: r.ID, Name: r.Name}
}

func channelRefs(all []channelzdata.Ref) []*channelzpb.ChannelRef { return mapped(all, channelRef) }

func subchannelRef(r channelzdata.Ref) *channelzpb.SubchannelRef {
	return &channelzpb.SubchannelRef{SubchannelId: r.ID, Name: r.Name}
}

func socketRef(r channelzdata.Ref) *channelzpb.SocketRef {
	return &channelzpb.SocketRef{SocketId: r.ID, Name: r.Name}
}

func mapped[A, B any](all []A, f func(A) B) []B {
	if len(all) == 0 {
		return nil
	}
	out := make([]B, len(all))
	for i, a := range all {
		out[i] = f(a)
	}
	return out
}

// timestamp returns the beginning of 1970 for the zero time, which says that it has not
// happened. grpcdebug understands that, as grpc-go says it so, and ends in a
// panic if the field is not there.
func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return &timestamppb.Timestamp{}
	}
	return timestamppb.New(t)
}
