package serviceconfig

import (
	"fmt"
	"iter"
	"math/bits"
	"strconv"

	"google.golang.org/grpc/codes"
)

// CodeSet is a set of the status codes 0 to 16, one bit each.
type CodeSet uint32

// Has reports whether c is in the set. A code above 16 never is.
func (s CodeSet) Has(c codes.Code) bool {
	return c <= maxCode && s&(1<<c) != 0
}

// With returns the set with c added. A code above 16 is not added.
func (s CodeSet) With(c codes.Code) CodeSet {
	if c > maxCode {
		return s
	}
	return s | 1<<c
}

// Codes returns the set of list, which field holds. One above 16 is an error.
func Codes(field string, list []codes.Code) (set CodeSet, err error) {
	for i, c := range list {
		if c > maxCode {
			return 0, wrong(fmt.Sprintf("%s[%d]", field, i), strconv.AppendUint(nil, uint64(c), 10), "a status code, 0 to 16")
		}
		set = set.With(c)
	}
	return set, nil
}

// All yields the codes in the set, lowest first.
func (s CodeSet) All() iter.Seq[codes.Code] {
	return func(yield func(codes.Code) bool) {
		for rest := uint32(s); rest != 0; rest &= rest - 1 {
			if !yield(codes.Code(bits.TrailingZeros32(rest))) {
				return
			}
		}
	}
}

// maxCode is the last status code that gRPC defines.
const maxCode = codes.Unauthenticated

// codeNames are the names that google.rpc.Code gives to the status codes, in
// their order. These, not codes.Code.String's, are the names in a service config.
var codeNames = [maxCode + 1]string{
	"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND",
	"ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED",
	"OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
}

// codeByName returns the code with that name, in capitals.
func codeByName(name string) (codes.Code, bool) {
	for c, n := range codeNames {
		if n == name {
			return codes.Code(c), true
		}
	}
	return 0, false
}
