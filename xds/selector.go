package xds

import (
	"context"
	"reflect"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial"
)

// refusal is the selector of an update that cannot be translated.
type refusal struct{ err error }

func (r *refusal) SelectCallConfig(grpcdial.CallInfo) (*grpcdial.CallConfig, error) {
	return nil, status.Error(codes.Unavailable, r.err.Error())
}

// selector asks a config selector of grpc-go's.
type selector struct {
	theirs reflect.Value
	ask    reflect.Value // the method SelectConfig, of the type of theirs
	info   *rpcInfo
	config rpcConfig
}

// translate returns a selector for grpcdial that asks theirs.
func translate(theirs any) grpcdial.CallConfigSelector {
	s := &selector{theirs: reflect.ValueOf(theirs)}
	if err := s.check(); err != nil {
		return &refusal{err}
	}
	return s
}

// check learns the shape of the method, func(RPCInfo) (*RPCConfig, error).
func (s *selector) check() (err error) {
	m, _ := s.theirs.Type().MethodByName("SelectConfig")
	t := m.Type // its first argument is the receiver
	if t.NumIn() != 2 || t.NumOut() != 2 || t.Out(1) != reflect.TypeFor[error]() || t.Out(0).Kind() != reflect.Pointer {
		return unknown("SelectConfig is a %s", t)
	}
	if s.info, err = learnInfo(t.In(1)); err != nil {
		return err
	}
	s.ask = m.Func
	s.config, err = learnConfig(t.Out(0).Elem())
	return err
}

func (s *selector) SelectCallConfig(i grpcdial.CallInfo) (*grpcdial.CallConfig, error) {
	args := s.info.of(i)
	args.info.Field(s.info.context).Set(reflect.ValueOf(extraContext{i.Context}))
	out := s.ask.Call(append(args.all[:0], s.theirs, args.info))
	s.info.done(args)
	if err, _ := out[1].Interface().(error); err != nil || out[0].IsNil() {
		return nil, err
	}
	return s.config.translate(out[0].Elem())
}

// rpcInfo is the shape of grpc-go's RPCInfo: the indices of its fields. authority is -1
// if there is none.
type rpcInfo struct {
	t                          reflect.Type
	context, method, authority int

	pool sync.Pool // of *arguments
}

// arguments are those of one call of a method that takes an RPCInfo. They are used again.
type arguments struct {
	info reflect.Value // the RPCInfo
	all  [5]reflect.Value
}

func learnInfo(t reflect.Type) (*rpcInfo, error) {
	i := &rpcInfo{t: t, context: -1, method: -1, authority: -1}
	if t.Kind() != reflect.Struct {
		return i, unknown("%s is no struct", t)
	}
	for n := range t.NumField() {
		switch f := t.Field(n); {
		case f.Name == "Context" && f.Type == reflect.TypeFor[context.Context]():
			i.context = n
		case f.Name == "Method" && f.Type == reflect.TypeFor[string]():
			i.method = n
		case f.Name == "Authority" && f.Type == reflect.TypeFor[string]():
			i.authority = n
		default:
			return i, unknown("%s has a field %s %s", t, f.Name, f.Type)
		}
	}
	if i.context < 0 || i.method < 0 {
		return i, unknown("%s lacks a context or a method", t)
	}
	return i, nil
}

// of returns arguments with an RPCInfo without a context, until they are done with.
func (i *rpcInfo) of(info grpcdial.CallInfo) *arguments {
	a, ok := i.pool.Get().(*arguments)
	if !ok {
		a = &arguments{info: reflect.New(i.t).Elem()}
	}
	a.info.Field(i.method).SetString(info.Method)
	if i.authority >= 0 {
		a.info.Field(i.authority).SetString(info.Authority)
	}
	return a
}

// done takes arguments back. The method that was called had copies.
func (i *rpcInfo) done(a *arguments) {
	a.info.SetZero()
	clear(a.all[:])
	i.pool.Put(a)
}

// rpcConfig is the shape of grpc-go's RPCConfig: the indices of its fields.
type rpcConfig struct{ context, methodConfig, onCommitted, interceptor int }

func learnConfig(t reflect.Type) (rpcConfig, error) {
	c := rpcConfig{-1, -1, -1, -1}
	if t.Kind() != reflect.Struct {
		return c, unknown("%s is no struct", t)
	}
	for n := range t.NumField() {
		switch f := t.Field(n); {
		case f.Name == "Context" && f.Type == reflect.TypeFor[context.Context]():
			c.context = n
		case f.Name == "MethodConfig" && f.Type == reflect.TypeFor[grpcdial.MethodConfig]():
			c.methodConfig = n
		case f.Name == "OnCommitted" && f.Type == reflect.TypeFor[func()]():
			c.onCommitted = n
		case f.Name == "Interceptor" && f.Type.Kind() == reflect.Interface:
			c.interceptor = n
		default:
			return c, unknown("%s has a field %s %s", t, f.Name, f.Type)
		}
	}
	if min(c.context, c.methodConfig, c.onCommitted, c.interceptor) < 0 {
		return c, unknown("%s lacks a field", t)
	}
	return c, nil
}

// translate returns what v, an RPCConfig, says.
func (c rpcConfig) translate(v reflect.Value) (*grpcdial.CallConfig, error) {
	config := &grpcdial.CallConfig{
		MethodConfig: *v.Field(c.methodConfig).Addr().Interface().(*grpcdial.MethodConfig),
		OnCommitted:  v.Field(c.onCommitted).Interface().(func()),
	}
	config.Context, _ = v.Field(c.context).Interface().(context.Context)
	theirs := v.Field(c.interceptor)
	if theirs.IsNil() {
		return config, nil
	}
	intercept, err := interceptorOf(theirs.Elem())
	if err != nil {
		if config.OnCommitted != nil {
			config.OnCommitted()
		}
		return nil, status.Error(codes.Internal, err.Error())
	}
	config.Interceptor = intercept
	return config, nil
}
