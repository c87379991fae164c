package connect

import (
	"net/url"
	"reflect"

	"google.golang.org/grpc/attributes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/attributevalues"
)

// Metadata returns what RPCs on a connection to addr send after their own metadata, nil
// for nothing: the deprecated Metadata of the address, or what grpc-go's grpclb policy
// attaches to the addresses that a balancer named, the balancer's token. The caller does
// not change it.
func Metadata(addr resolver.Address) metadata.MD {
	if md, ok := addr.Metadata.(*metadata.MD); ok && md != nil {
		return *md
	}
	v := internalAttribute(addr.Attributes, "google.golang.org/grpc/internal/metadata")
	if !v.IsValid() || !v.Type().ConvertibleTo(reflect.TypeFor[metadata.MD]()) {
		return nil
	}
	md := make(metadata.MD, v.Len())
	for it := v.MapRange(); it.Next(); {
		values := make([]string, it.Value().Len())
		for i := range values {
			values[i] = it.Value().Index(i).String()
		}
		md[it.Key().String()] = values
	}
	return md
}

// throughProxy returns what grpc-go's xDS attaches to an address that is that of an HTTP
// proxy (gRFC A86): the proxy, and the address that it is to connect to. proxy is nil if
// addr is no such address.
func throughProxy(addr resolver.Address) (proxy *url.URL, target string) {
	v := internalAttribute(addr.Attributes, "google.golang.org/grpc/internal/proxyattributes")
	if !v.IsValid() || v.Kind() != reflect.Struct {
		return nil, ""
	}
	connect, user := v.FieldByName("ConnectAddr"), v.FieldByName("User")
	if !connect.IsValid() || connect.Kind() != reflect.String {
		return nil, ""
	}
	return &url.URL{Scheme: "http", Host: addr.Addr, User: userinfo(user)}, connect.String()
}

// userinfo returns a copy of the *url.Userinfo that v holds, nil if there is none.
func userinfo(v reflect.Value) *url.Userinfo {
	if !v.IsValid() || v.Type() != reflect.TypeFor[*url.Userinfo]() || v.IsNil() {
		return nil
	}
	name, password := v.Elem().FieldByName("username"), v.Elem().FieldByName("password")
	if set := v.Elem().FieldByName("passwordSet"); set.IsValid() && set.Bool() {
		return url.UserPassword(name.String(), password.String())
	}
	return url.User(name.String())
}

// internalAttribute returns the latest value of a type from a package internal to grpc-go,
// the zero Value if attrs have none.
func internalAttribute(attrs *attributes.Attributes, pkg string) reflect.Value {
	for _, value := range attributevalues.All(attrs) {
		if value.Type().PkgPath() == pkg {
			return value
		}
	}
	return reflect.Value{}
}
