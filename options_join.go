package grpcdial

import "fmt"

// JoinDialOptions returns an option that applies opts in order, so that several can be
// passed as one. A nil among them is an error of the constructor.
func JoinDialOptions(opts ...DialOption) DialOption {
	opts = append([]DialOption(nil), opts...)
	return optionFunc(func(o *dialOptions) {
		for i, opt := range opts {
			if opt == nil {
				o.invalid = fmt.Errorf("grpcdial: JoinDialOptions: dial option %d of %d is nil", i+1, len(opts))
				continue
			}
			opt.passGrpcOptionsThroughBridgeFromGRPC(o)
		}
	})
}
