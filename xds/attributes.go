package xds

import (
	"fmt"
	"reflect"

	"google.golang.org/grpc/attributes"
)

// configSelector returns grpc-go's config selector among an update's attributes, nil if
// there is none. It is known by its method. The key that it is kept under is not
// exported, nor may a value be taken out of an unexported field: but the key's type and
// content can be read, another key made of these, and the attributes asked with it.
func configSelector(a *attributes.Attributes) (any, error) {
	for cur := reflect.ValueOf(a); !cur.IsNil(); {
		if cur.Elem().Kind() != reflect.Struct {
			return nil, unknown("attributes are %s", cur.Type())
		}
		key, value, parent := cur.Elem().FieldByName("key"), cur.Elem().FieldByName("value"), cur.Elem().FieldByName("parent")
		if !isKind(key, reflect.Interface) || !isKind(value, reflect.Interface) || !isKind(parent, reflect.Pointer) || parent.Type() != cur.Type() {
			return nil, unknown("attributes have fields other than key, value and parent")
		}
		if !value.IsNil() {
			if _, has := value.Elem().Type().MethodByName("SelectConfig"); has {
				return valueOf(a, key, value.Elem().Type())
			}
		}
		cur = parent
	}
	return nil, nil
}

// valueOf returns what a has under a key like key, which must be of the type want.
func valueOf(a *attributes.Attributes, key reflect.Value, want reflect.Type) (any, error) {
	if key.IsNil() {
		return nil, unknown("the config selector's key is nil")
	}
	key = key.Elem()
	same := reflect.New(key.Type()).Elem()
	switch {
	case key.Kind() == reflect.String:
		same.SetString(key.String())
	case key.Kind() == reflect.Struct && key.NumField() == 0:
	default:
		return nil, unknown("the config selector's key is a %s", key.Type())
	}
	v := a.Value(same.Interface())
	if reflect.TypeOf(v) != want {
		return nil, unknown("the config selector's key leads to a %T", v)
	}
	return v, nil
}

func isKind(v reflect.Value, k reflect.Kind) bool { return v.IsValid() && v.Kind() == k }

// unknown is why an update cannot be translated.
func unknown(format string, args ...any) error {
	return fmt.Errorf("grpcdial/xds does not know this version of grpc-go: "+format, args...)
}
