package connect

import (
	"reflect"

	"google.golang.org/grpc/attributes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver"
)

// Metadata returns what RPCs on a connection to addr send after their own metadata, nil
// for nothing: the deprecated Metadata of the address, or what grpc-go's grpclb policy
// attaches to the addresses that a balancer named, the balancer's token. The caller does
// not change it.
func Metadata(addr resolver.Address) metadata.MD {
	if md, ok := addr.Metadata.(*metadata.MD); ok && md != nil {
		return *md
	}
	if addr.Attributes == nil {
		return nil
	}
	return attached(reflect.ValueOf(addr.Attributes))
}

var (
	attributesType = reflect.TypeFor[*attributes.Attributes]()
	metadataType   = reflect.TypeFor[metadata.MD]()
)

// metadataPackage is where grpc-go keeps the key and the type of such metadata. Both are
// internal to it, but attributes are a list that reflection may read.
const metadataPackage = "google.golang.org/grpc/internal/metadata"

// attached returns the metadata among attrs, a *attributes.Attributes: that of the latest
// WithValue, which comes first. In a grpc-go that keeps attributes in another shape there
// is none.
func attached(attrs reflect.Value) metadata.MD {
	for ; attrs.Type() == attributesType && !attrs.IsNil(); attrs = attrs.Elem().FieldByName("parent") {
		value := attrs.Elem().FieldByName("value")
		if !value.IsValid() || !attrs.Elem().FieldByName("parent").IsValid() {
			return nil
		}
		if value.Kind() == reflect.Interface {
			value = value.Elem()
		}
		if value.IsValid() && value.Type().PkgPath() == metadataPackage && value.Type().ConvertibleTo(metadataType) {
			return copied(value)
		}
	}
	return nil
}

// copied returns the map of the type of metadata.MD that v holds, read from a field that
// is not exported.
func copied(v reflect.Value) metadata.MD {
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
