package xds

import (
	"context"
	"reflect"
	"sync"

	"google.golang.org/grpc"

	"github.com/grpcdial/grpcdial"
)

// intercept is the Interceptor of a grpcdial.CallConfig.
type intercept = func(context.Context, grpcdial.CallInfo, grpcdial.NewStreamFunc, ...grpc.CallOption) (grpc.ClientStream, error)

// newStreamFunc is the type in which grpc-go's interceptors get what they are in front of.
type newStreamFunc = func(context.Context, ...grpc.CallOption) (grpc.ClientStream, error)

// interceptorType is the shape of a type of grpc-go's interceptors, or why it is unknown.
type interceptorType struct {
	newStream reflect.Value // the method, of the type
	info      *rpcInfo      // that of its second argument
	err       error
}

// interceptorTypes are the shapes that are known, by reflect.Type. There is one or
// two, all of the life of the program.
var interceptorTypes sync.Map

// interceptorOf returns what runs v, an interceptor of grpc-go's; nil if v does nothing.
func interceptorOf(v reflect.Value) (intercept, error) {
	if isEmptyList(v) {
		return nil, nil
	}
	known, ok := interceptorTypes.Load(v.Type())
	if !ok {
		known, _ = interceptorTypes.LoadOrStore(v.Type(), learnInterceptor(v.Type()))
	}
	t := known.(*interceptorType)
	if t.err != nil {
		return nil, t.err
	}
	return func(ctx context.Context, info grpcdial.CallInfo, next grpcdial.NewStreamFunc, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		args := t.info.of(info)
		out := t.newStream.CallSlice(append(args.all[:0], v, reflect.ValueOf(ctx), args.info, reflect.ValueOf(newStreamFunc(next)), reflect.ValueOf(opts)))
		t.info.done(args)
		err, _ := out[1].Interface().(error)
		s, _ := out[0].Interface().(grpc.ClientStream)
		return s, err
	}, nil
}

// learnInterceptor learns the shape of a type with a method
// NewStream(context.Context, RPCInfo, newStreamFunc, ...grpc.CallOption) (grpc.ClientStream, error).
func learnInterceptor(t reflect.Type) *interceptorType {
	m, ok := t.MethodByName("NewStream")
	if !ok {
		return &interceptorType{err: unknown("the interceptor %s has no method NewStream", t)}
	}
	f := m.Type // its first argument is the receiver
	if f.NumIn() != 5 || f.NumOut() != 2 || !f.IsVariadic() ||
		f.In(1) != reflect.TypeFor[context.Context]() || f.In(3) != reflect.TypeFor[newStreamFunc]() || f.In(4) != reflect.TypeFor[[]grpc.CallOption]() ||
		f.Out(0) != reflect.TypeFor[grpc.ClientStream]() || f.Out(1) != reflect.TypeFor[error]() {
		return &interceptorType{err: unknown("the interceptor's NewStream is a %s", f)}
	}
	info, err := learnInfo(f.In(2))
	return &interceptorType{newStream: m.Func, info: info, err: err}
}

// isEmptyList reports whether v is grpc-go's list of a route's HTTP filters and there is
// none in it, as for most routes: their RPCs need no interception.
func isEmptyList(v reflect.Value) bool {
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct || v.Elem().NumField() != 1 || v.Elem().Type().Name() != "interceptorList" {
		return false
	}
	f := v.Elem().Type().Field(0)
	return f.Name == "interceptors" && f.Type.Kind() == reflect.Slice && v.Elem().Field(0).Len() == 0
}
