package serviceconfig

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
)

// The functions in this file read one JSON value each. raw is well-formed JSON,
// as the whole text was checked before, and neither absent nor null unless said
// otherwise; field is its path, for errors.

// absent reports whether a field is not there or null, which protobuf's JSON
// mapping holds to be the same.
func absent(raw json.RawMessage) bool {
	return len(raw) == 0 || string(raw) == "null"
}

// readObject decodes an object into the struct of json.RawMessage fields that
// into points to. Unknown keys are ignored.
func readObject(field string, raw json.RawMessage, into any) error {
	if len(raw) == 0 || raw[0] != '{' {
		return wrong(field, raw, "an object")
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return &Error{Field: field, Value: quoted(raw), Err: err}
	}
	return nil
}

// readList decodes an array. raw may be absent: no elements.
func readList(field string, raw json.RawMessage) ([]json.RawMessage, error) {
	if absent(raw) {
		return nil, nil
	}
	var list []json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, wrong(field, raw, "an array")
	}
	return list, nil
}

// readString decodes a string. raw may be absent: the empty string.
func readString(field string, raw json.RawMessage) (string, error) {
	if absent(raw) {
		return "", nil
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return "", wrong(field, raw, "a string")
	}
	return s, nil
}

// readBool decodes true or false. raw may be absent: nil.
func readBool(field string, raw json.RawMessage) (*bool, error) {
	if absent(raw) {
		return nil, nil
	}
	var b bool
	if err := json.Unmarshal(raw, &b); err != nil {
		return nil, wrong(field, raw, "true or false")
	}
	return &b, nil
}

// numberText returns the digits of a number given as a number or as a string of
// the same form.
func numberText(raw json.RawMessage) (string, bool) {
	if len(raw) == 0 {
		return "", false
	}
	if raw[0] != '"' {
		c := raw[0]
		return string(raw), c == '-' || '0' <= c && c <= '9'
	}
	var n json.Number // a JSON string is accepted if it holds a JSON number
	if err := json.Unmarshal(raw, &n); err != nil || n == "" {
		return "", false
	}
	return n.String(), true
}

// readInt decodes a whole number within int64: also with a fraction of zero or an
// exponent, as protobuf's JSON mapping has it.
func readInt(field string, raw json.RawMessage, want string) (int64, error) {
	s, ok := numberText(raw)
	if !ok {
		return 0, wrong(field, raw, want)
	}
	n, ok := parseWhole(s)
	if !ok {
		return 0, wrong(field, raw, want)
	}
	return n, nil
}

// parseWhole reads a JSON number that is whole and within int64. It works on the
// digits: a float64 would take 1e-400 for 0 and 9007199254740993.0 for its
// neighbour.
func parseWhole(s string) (int64, bool) {
	mantissa, exponent := s, 0
	if e := strings.IndexAny(s, "eE"); e >= 0 {
		var err error
		if exponent, err = strconv.Atoi(s[e+1:]); err != nil {
			return 0, false
		}
		mantissa = s[:e]
	}
	sign := ""
	if strings.HasPrefix(mantissa, "-") {
		sign, mantissa = "-", mantissa[1:]
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	digits := strings.Trim(whole+fraction, "0") // without the zeros at either end
	if digits == "" {
		return 0, true
	}
	// zeros is how many follow digits once the point has been moved.
	zeros := exponent - len(fraction) + len(whole+fraction) - len(strings.TrimRight(whole+fraction, "0"))
	if zeros < 0 || zeros > 18 { // 10^19 is beyond int64
		return 0, false
	}
	n, err := strconv.ParseInt(sign+digits+strings.Repeat("0", zeros), 10, 64)
	return n, err == nil
}

// readFloat decodes a finite number.
func readFloat(field string, raw json.RawMessage, want string) (float64, error) {
	s, ok := numberText(raw)
	if !ok {
		return 0, wrong(field, raw, want)
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil { // out of range
		return 0, wrong(field, raw, want)
	}
	return f, nil
}

const wantSize = "a size in bytes, 0 or more"

// readSize decodes a message size in bytes. raw may be absent: nil. The schema
// has uint32; as in grpc-go, a larger one is taken too and cut to what an int can
// hold, which no message reaches.
func readSize(field string, raw json.RawMessage) (*int, error) {
	if absent(raw) {
		return nil, nil
	}
	n, err := readInt(field, raw, wantSize)
	if err != nil {
		return nil, err
	}
	if n < 0 {
		return nil, wrong(field, raw, wantSize)
	}
	size := int(min(n, math.MaxInt))
	return &size, nil
}

// maxDurationSeconds is the bound that google.protobuf.Duration has either way,
// about 10,000 years.
const maxDurationSeconds = 315_576_000_000

const wantDuration = `a duration in seconds with up to 9 decimal places, such as "1.5s", within 315576000000s`

// readDuration decodes a google.protobuf.Duration. One beyond time.Duration's
// range, about 292 years, becomes the end of that range.
func readDuration(field string, raw json.RawMessage) (time.Duration, error) {
	var s string
	if raw[0] != '"' || json.Unmarshal(raw, &s) != nil {
		return 0, wrong(field, raw, wantDuration)
	}
	d, ok := parseDuration(s)
	if !ok {
		return 0, wrong(field, raw, wantDuration)
	}
	return d, nil
}

// parseDuration reads [+-]digits[.digits]s, where either group of digits may be
// empty but not both.
func parseDuration(s string) (time.Duration, bool) {
	number, ok := strings.CutSuffix(s, "s")
	if !ok {
		return 0, false
	}
	negative := strings.HasPrefix(number, "-")
	if negative || strings.HasPrefix(number, "+") {
		number = number[1:]
	}
	whole, fraction, _ := strings.Cut(number, ".")
	if whole == "" && fraction == "" || len(fraction) > 9 || !allDigits(whole) || !allDigits(fraction) {
		return 0, false
	}
	var seconds, nanos int64
	for i := range len(whole) {
		if seconds = seconds*10 + int64(whole[i]-'0'); seconds > maxDurationSeconds {
			return 0, false
		}
	}
	for i := range 9 {
		nanos *= 10
		if i < len(fraction) {
			nanos += int64(fraction[i] - '0')
		}
	}
	const most = int64(math.MaxInt64)
	beyond := seconds > most/int64(time.Second) || seconds == most/int64(time.Second) && nanos > most%int64(time.Second)
	switch {
	case beyond && negative:
		return math.MinInt64, true
	case beyond:
		return math.MaxInt64, true
	case negative:
		return -time.Duration(seconds*int64(time.Second) + nanos), true
	}
	return time.Duration(seconds*int64(time.Second) + nanos), true
}

func allDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

const wantCode = `a status code's name in capitals, such as "UNAVAILABLE", or its number, 0 to 16`

// readCode decodes a status code.
func readCode(field string, raw json.RawMessage) (codes.Code, error) {
	if n, err := strconv.ParseUint(string(raw), 10, 32); err == nil && n <= uint64(maxCode) {
		return codes.Code(n), nil
	}
	var name string
	if raw[0] == '"' && json.Unmarshal(raw, &name) == nil {
		if c, ok := codeByName(name); ok {
			return c, nil
		}
	}
	return 0, wrong(field, raw, wantCode)
}
