package serviceconfig

import (
	"bytes"
	"encoding/json"
	"strconv"

	"github.com/grpcdial/grpcdial/internal/text"
)

// Error says which field makes a service config invalid. Every error of this
// package is an *Error.
type Error struct {
	// Field is the path of the field, as in "methodConfig[2].timeout"; empty for
	// the text as a whole.
	Field string
	// Value is what the field holds, as JSON text, shortened if long. Empty if
	// the field is missing.
	Value string
	// Want says what is allowed there. Empty if Err says what is wrong.
	Want string
	// Err is the cause if there is one: of the JSON decoder or of a policy's
	// ParseConfig.
	Err error
}

// Error names the field, its value and what is allowed.
func (e *Error) Error() string {
	s := "service config: "
	if e.Field != "" {
		s += e.Field + ": "
	}
	switch {
	case e.Err != nil && e.Value != "":
		s += e.Value + ": " + e.Err.Error()
	case e.Err != nil:
		s += e.Err.Error()
	case e.Value == "":
		s += "missing"
	default:
		s += e.Value + " is not allowed"
	}
	if e.Want != "" {
		s += "; want " + e.Want
	}
	return s
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// maxQuoted bounds the part of a value that an error repeats, in bytes.
const maxQuoted = 120

// quoted is JSON text as an error shows it: on one line and not too long.
func quoted(raw []byte) string {
	if len(raw) == 0 {
		return ""
	}
	var b bytes.Buffer
	if json.Compact(&b, raw) != nil {
		return strconv.Quote(text.Cut(string(raw), maxQuoted))
	}
	return text.Cut(b.String(), maxQuoted)
}

// wrong is the error for a field whose value is not allowed, or is missing if
// raw is empty.
func wrong(field string, raw []byte, want string) error {
	return &Error{Field: field, Value: quoted(raw), Want: want}
}
