// Package attributevalues lists the values of grpc-go's attributes, for those whose key is
// internal to grpc-go.
package attributevalues

import (
	"iter"
	"reflect"

	"google.golang.org/grpc/attributes"
)

// All yields the values that are not nil, the latest first, each with the type of its key.
// They come from fields that are not exported: they can be read by reflection, but
// Interface is refused. Attributes of a grpc-go that keeps them in another shape have none.
func All(a *attributes.Attributes) iter.Seq2[reflect.Type, reflect.Value] {
	return func(yield func(reflect.Type, reflect.Value) bool) {
		for v := reflect.ValueOf(a); v.IsValid() && v.Type() == reflect.TypeFor[*attributes.Attributes]() && !v.IsNil(); v = v.Elem().FieldByName("parent") {
			key, value := v.Elem().FieldByName("key"), v.Elem().FieldByName("value")
			if !key.IsValid() || key.Kind() != reflect.Interface || !value.IsValid() || value.Kind() != reflect.Interface {
				return
			}
			if !key.IsNil() && !value.IsNil() && !yield(key.Elem().Type(), value.Elem()) {
				return
			}
		}
	}
}
