package channelz

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestPageJSONIsDocumented: docs/page.md has every field.
func TestPageJSONIsDocumented(t *testing.T) {
	file, err := os.ReadFile("../docs/page.md")
	require.NoError(t, err)
	_, fields, found := strings.Cut(string(file), "## JSON")
	require.True(t, found)
	var documented func(reflect.Type)
	documented = func(of reflect.Type) {
		switch of.Kind() {
		case reflect.Pointer, reflect.Slice:
			documented(of.Elem())
		case reflect.Struct:
			if of.PkgPath() != reflect.TypeFor[picture]().PkgPath() {
				return
			}
			for i := range of.NumField() {
				name, _, _ := strings.Cut(of.Field(i).Tag.Get("json"), ",")
				if name != "" {
					assert.Contains(t, fields, "`"+name+"`", "%v's field", of)
				}
				documented(of.Field(i).Type)
			}
		}
	}
	documented(reflect.TypeFor[picture]())
}
