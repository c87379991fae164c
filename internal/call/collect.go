package call

import "google.golang.org/grpc"

// collect fills what Header, Trailer and Peer options point to from the last
// attempt, which has ended. It leaves them alone if no stream was opened.
func (r *rpc) collect(a *attempt) {
	if !r.set.collects || a.s == nil {
		return
	}
	for _, opts := range [...][]grpc.CallOption{r.defaults(), r.opts} {
		for _, o := range opts {
			collectOne(o, a)
		}
	}
}

func collectOne(o grpc.CallOption, a *attempt) {
	switch o := o.(type) {
	case grpc.HeaderCallOption:
		if o.HeaderAddr != nil {
			*o.HeaderAddr = a.s.HeaderMD()
		}
	case grpc.TrailerCallOption:
		if o.TrailerAddr != nil {
			*o.TrailerAddr = a.s.Trailer()
		}
	case grpc.PeerCallOption:
		if o.PeerAddr != nil {
			*o.PeerAddr = *a.conn.Peer()
		}
	case nil, grpc.EmptyCallOption, grpc.StaticMethodCallOption, grpc.OnFinishCallOption, grpc.FailFastCallOption,
		grpc.MaxRecvMsgSizeCallOption, grpc.MaxSendMsgSizeCallOption, grpc.MaxRetryRPCBufferSizeCallOption,
		grpc.PerRPCCredsCallOption, grpc.CompressorCallOption, grpc.ContentSubtypeCallOption, grpc.AuthorityOverrideCallOption,
		grpc.ForceCodecCallOption, grpc.ForceCodecV2CallOption, grpc.CustomCodecCallOption, acceptOption:
	default:
		if inner := plainOption(o); inner != nil {
			collectOne(inner, a)
		}
	}
}

// reportFinished runs the OnFinish options, in their order.
func (r *rpc) reportFinished(err error) {
	if !r.set.finishers {
		return
	}
	for _, opts := range [...][]grpc.CallOption{r.defaults(), r.opts} {
		for _, o := range opts {
			f, ok := o.(grpc.OnFinishCallOption)
			if !ok {
				f, _ = plainFinisher(o)
			}
			if f.OnFinish != nil {
				f.OnFinish(err)
			}
		}
	}
}

// plainFinisher finds an OnFinish option that is pointed to or embedded.
func plainFinisher(o grpc.CallOption) (grpc.OnFinishCallOption, bool) {
	switch o.(type) {
	case nil, grpc.EmptyCallOption, grpc.HeaderCallOption, grpc.TrailerCallOption, grpc.PeerCallOption, grpc.FailFastCallOption:
		return grpc.OnFinishCallOption{}, false // the usual ones, without reflection
	}
	f, ok := plainOption(o).(grpc.OnFinishCallOption)
	return f, ok
}
