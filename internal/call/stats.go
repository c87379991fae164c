package call

import (
	"context"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/stats"

	"github.com/grpcdial/grpcdial/internal/h2"
)

// The events of stats handlers, one function each, in the order in which an
// attempt reports them. They run on the RPC's goroutines, and only if there are
// handlers.

// tagged reports whether stats handlers watch this RPC. Those on one subchannel are not watched.
func (r *rpc) tagged() bool { return len(r.ch.cfg.StatsHandlers) > 0 && r.via == nil }

func (r *rpc) report(a *attempt, s stats.RPCStats) {
	for _, h := range r.ch.cfg.StatsHandlers {
		h.HandleRPC(a.ctx, s)
	}
}

func (r *rpc) reportBegin(a *attempt, transparent bool) {
	a.began = time.Now()
	for _, h := range r.ch.cfg.StatsHandlers {
		a.ctx = h.TagRPC(a.ctx, &stats.RPCTagInfo{
			FullMethodName:      r.method,
			FailFast:            !r.set.waitForReady,
			NameResolutionDelay: r.resolverDelayed,
		})
	}
	r.report(a, &stats.Begin{
		Client:                    true,
		BeginTime:                 a.began,
		FailFast:                  !r.set.waitForReady,
		IsClientStream:            r.sendsMany,
		IsServerStream:            r.receivesMany,
		IsTransparentRetryAttempt: transparent,
	})
}

// reportPicked also puts the peer in the attempt's context.
func (r *rpc) reportPicked(a *attempt) {
	if a.pickDelayed {
		r.report(a, &stats.DelayedPickComplete{})
	}
	a.ctx = peer.NewContext(a.ctx, a.conn.Peer())
}

// taggedMetadata is the outgoing metadata after TagRPC.
func (r *rpc) taggedMetadata(a *attempt) (metadata.MD, error) {
	md, _ := metadata.FromOutgoingContext(a.ctx)
	return md, validMetadata(md)
}

// outgoing holds the events of an attempt that follow the opening of its stream. It is a
// copy, so that an RPC without handlers can stay on its caller's stack.
type outgoing struct {
	handlers []stats.Handler
	ctx      context.Context
	header   stats.OutHeader
	payload  *stats.OutPayload // nil: the message is not sent with the headers
}

// reportOpened arranges that OutHeader is reported when the stream of req is open, and
// payload after it.
func (r *rpc) reportOpened(a *attempt, req *h2.Request, payload *stats.OutPayload) {
	md := a.md.Copy()
	md.Set("user-agent", r.ch.cfg.UserAgent)
	out := &outgoing{
		handlers: r.ch.cfg.StatsHandlers,
		ctx:      a.ctx,
		header: stats.OutHeader{
			Client:      true,
			FullMethod:  r.method,
			Compression: r.encoding,
			Header:      md,
			Authority:   a.authority,
		},
		payload: payload,
	}
	req.Opened = out.report
}

func (o *outgoing) report(on *peer.Peer) {
	o.header.RemoteAddr, o.header.LocalAddr = on.Addr, on.LocalAddr
	for _, h := range o.handlers {
		h.HandleRPC(o.ctx, &o.header)
	}
	if o.payload == nil {
		return
	}
	o.payload.SentTime = time.Now()
	for _, h := range o.handlers {
		h.HandleRPC(o.ctx, o.payload)
	}
}

// outPayload is the event of a message that is sent, without its time.
func outPayload(m any, uncompressed, payload int) *stats.OutPayload {
	return &stats.OutPayload{
		Client:           true,
		Payload:          m,
		Length:           uncompressed,
		CompressedLength: payload,
		WireLength:       payload + prefixLen,
	}
}

func (r *rpc) reportOutPayload(a *attempt, m any, uncompressed, payload int) {
	s := outPayload(m, uncompressed, payload)
	s.SentTime = time.Now()
	r.report(a, s)
}

func (r *rpc) reportInHeader(a *attempt, md metadata.MD) {
	_, length, _ := a.s.WireLengths()
	r.report(a, &stats.InHeader{
		Client:      true,
		WireLength:  length,
		Compression: a.s.RecvEncoding(),
		Header:      md,
	})
}

func (r *rpc) reportInPayload(a *attempt, m any, payload, uncompressed int) {
	r.report(a, &stats.InPayload{
		Client:           true,
		Payload:          m,
		Length:           uncompressed,
		CompressedLength: payload,
		WireLength:       payload + prefixLen,
		RecvTime:         time.Now(),
	})
}

// reportEnd reports the end of an attempt, after its trailers if the server sent some. An
// attempt that was given up before its Begin was reported has no End either.
func (r *rpc) reportEnd(a *attempt, trailer metadata.MD, err error) {
	if a.began.IsZero() {
		return
	}
	if a.s != nil {
		if _, _, length := a.s.WireLengths(); length > 0 {
			r.report(a, &stats.InTrailer{Client: true, WireLength: length, Trailer: trailer.Copy()})
		}
	}
	r.report(a, &stats.End{Client: true, BeginTime: a.began, EndTime: time.Now(), Trailer: trailer, Error: err})
}
