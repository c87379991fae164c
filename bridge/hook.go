package bridge

import (
	"errors"
	"fmt"
	"reflect"
	"unsafe"

	"google.golang.org/grpc"
)

// hook returns a grpc.DialOption that calls apply with what options are applied to:
// the struct in which grpc-go collects them, addressable. apply runs within
// grpc.NewClient, after the options before it and before those that follow it.
func hook(apply func(options reflect.Value)) (grpc.DialOption, error) {
	sample := reflect.TypeOf(grpc.WithDisableRetry())
	fail := func() (grpc.DialOption, error) {
		return nil, fmt.Errorf("grpcdial/bridge: grpc-go %s makes its dial options in a way that this package does not know (%v)", grpc.Version, sample)
	}
	if sample.Kind() != reflect.Pointer || sample.Elem().Kind() != reflect.Struct || sample.Elem().NumField() != 1 {
		return fail()
	}
	f := sample.Elem().Field(0).Type
	if f.Kind() != reflect.Func || f.NumIn() != 1 || f.NumOut() != 0 ||
		f.In(0).Kind() != reflect.Pointer || f.In(0).Elem().Kind() != reflect.Struct || f.In(0).Elem().Name() != "dialOptions" {
		return fail()
	}
	option := reflect.New(sample.Elem())
	open(option.Elem().Field(0)).Set(reflect.MakeFunc(f, func(args []reflect.Value) []reflect.Value {
		apply(args[0].Elem())
		return nil
	}))
	return option.Interface().(grpc.DialOption), nil
}

// open returns v, an addressable field, as one that may be read and set though its
// name is not exported.
func open(v reflect.Value) reflect.Value {
	return reflect.NewAt(v.Type(), unsafe.Pointer(v.UnsafeAddr())).Elem() // the purpose of this package
}

// placeError reports whether the options of a *grpc.ClientConn, of type options, are
// not the field of it that connOf takes them for.
func placeError(options reflect.Type) error {
	field, ok := reflect.TypeFor[grpc.ClientConn]().FieldByName("dopts")
	if !ok || field.Type != options {
		return fmt.Errorf("grpc-go %s has no field ClientConn.dopts of type %v", grpc.Version, options)
	}
	return nil
}

// connOf returns the *grpc.ClientConn whose options these are. They have to be those of
// one that grpc-go makes, and placeError to find nothing.
func connOf(options reflect.Value) *grpc.ClientConn {
	field, _ := reflect.TypeFor[grpc.ClientConn]().FieldByName("dopts")
	return (*grpc.ClientConn)(unsafe.Add(unsafe.Pointer(options.UnsafeAddr()), -int(field.Offset)))
}

// fields reads the fields of a struct of grpc-go's, and notes which were read and what
// was not as expected.
type fields struct {
	of     reflect.Value
	known  map[string]bool
	errors []error
}

func fieldsOf(v reflect.Value) *fields {
	return &fields{of: v, known: make(map[string]bool)}
}

func (f *fields) failf(format string, args ...any) {
	f.errors = append(f.errors, fmt.Errorf(format, args...))
}

// value returns the field of that name, which may be read and set; the zero Value if
// there is none.
func (f *fields) value(name string) reflect.Value {
	f.known[name] = true
	v := f.of.FieldByName(name)
	if !v.IsValid() {
		f.failf("grpc-go %s has no field %s.%s", grpc.Version, f.of.Type(), name)
		return v
	}
	return open(v)
}

// ignore marks fields as known whose values do not matter here.
func (f *fields) ignore(names ...string) {
	for _, name := range names {
		f.known[name] = true
	}
}

// get returns the value of the field of that name, which has to be of type T.
func get[T any](f *fields, name string) T {
	var zero T
	v := f.value(name)
	if !v.IsValid() {
		return zero
	}
	if v.Type() != reflect.TypeFor[T]() {
		f.failf("grpc-go %s has a field %s.%s of type %v, want %v", grpc.Version, f.of.Type(), name, v.Type(), reflect.TypeFor[T]())
		return zero
	}
	return *(*T)(v.Addr().UnsafePointer())
}

// set changes the value of the field of that name, which has to be of type T.
func set[T any](f *fields, name string, to T) {
	before := len(f.errors)
	if get[T](f, name); len(f.errors) == before {
		open(f.of.FieldByName(name)).Set(reflect.ValueOf(&to).Elem())
	}
}

// unknown adds an error for each field that was not read and differs from that of
// usual, the options of a connection that was given none.
func (f *fields) unknown(usual reflect.Value) {
	for i := range f.of.NumField() {
		name := f.of.Type().Field(i).Name
		if f.known[name] {
			continue
		}
		if !reflect.DeepEqual(open(f.of.Field(i)).Interface(), open(usual.Field(i)).Interface()) {
			f.failf("an option sets %s.%s, which this package does not know", f.of.Type(), name)
		}
	}
}

// err joins what was not as expected.
func (f *fields) err() error { return errors.Join(f.errors...) }
