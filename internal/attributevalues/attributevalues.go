// Package attributevalues lists the values of grpc-go's attributes, for those whose key is
// internal to grpc-go.
package attributevalues

import (
	"iter"
	"reflect"

	"google.golang.org/grpc/attributes"
)

// All yields the values that are not nil, the latest first. They come from fields that are
// not exported: they can be read by reflection, but Interface is refused. Attributes of a
// grpc-go that keeps them in another shape have none.
func All(a *attributes.Attributes) iter.Seq[reflect.Value] {
	return func(yield func(reflect.Value) bool) {
		for v := reflect.ValueOf(a); v.IsValid() && v.Type() == reflect.TypeFor[*attributes.Attributes]() && !v.IsNil(); v = v.Elem().FieldByName("parent") {
			value := v.Elem().FieldByName("value")
			if !value.IsValid() || value.Kind() != reflect.Interface {
				return
			}
			if !value.IsNil() && !yield(value.Elem()) {
				return
			}
		}
	}
}
