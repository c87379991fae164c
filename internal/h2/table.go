package h2

// fieldTable is the dynamic table of HPACK (RFC 7541) as one side of a connection fills it, as
// far as headerEncoder has need of it: nothing is evicted but by a change of size, after which
// nothing is left that is asked for. So a field's index follows from how many were inserted
// after it, and no look-up needs a map: most connections have six fields or so, and the most
// there can be are some hundred.
type fieldTable struct {
	fields  []field // in the order in which they were inserted
	size    uint32  // the table's, which the peer knows once updates have been written
	resized bool    // size is to be announced
	emptied bool    // a size of 0 is to be announced before it
}

type field struct{ name, value string }

const (
	defaultTableSize = 4096 // RFC 9113 section 6.5.2
	fieldOverhead    = 32   // what a field takes of the table beside its bytes (RFC 7541 section 4.1)

	// Representations, and fields of the static table (RFC 7541 section 6 and appendix A).
	indexedField   = 0x80 // the index follows in seven bits
	insertedField  = 0x40 // the index of the name follows in six bits, or 0 and the name
	sizeUpdate     = 0x20 // the size follows in five bits
	literalField   = 0x00 // the index of the name follows in four bits, or 0 and the name; not inserted
	firstInDynamic = 62
	methodPOST     = indexedField | 3
	schemeHTTP     = indexedField | 6
	schemeHTTPS    = indexedField | 7
)

// staticName returns the index of a name in the static table, of those that are often
// inserted; 0: it is none of them.
func staticName(name string) byte {
	switch name {
	case ":authority":
		return 1
	case ":path":
		return 4
	case "authorization":
		return 23
	case "content-type":
		return 31
	case "user-agent":
		return 58
	}
	return 0
}

// find returns the place of a field; -1 if it is not in the table.
func (t *fieldTable) find(name, value string) int {
	for at := range t.fields {
		if f := &t.fields[at]; len(f.value) == len(value) && f.name == name && f.value == value {
			return at
		}
	}
	return -1
}

// last returns the place of the field that was inserted last.
func (t *fieldTable) last() int { return len(t.fields) - 1 }

// appendIndex appends the field at a place.
func (t *fieldTable) appendIndex(b []byte, at int) []byte {
	return appendPrefixed(b, indexedField, 7, uint64(firstInDynamic+t.last()-at))
}

// appendName appends the start of a literal without indexing, whose name is that of the field at
// a place. The value follows.
func (t *fieldTable) appendName(b []byte, at int) []byte {
	return appendPrefixed(b, literalField, 4, uint64(firstInDynamic+t.last()-at))
}

// appendInsertion appends a field that is inserted. There is room for it, and it is kept.
func (t *fieldTable) appendInsertion(b []byte, name, value string) []byte {
	t.fields = append(t.fields, field{name, value})
	if static := staticName(name); static > 0 {
		b = append(b, insertedField|static)
	} else {
		b = append(b, insertedField)
		b = appendHpackString(b, name)
	}
	return appendHpackString(b, value)
}

// limit makes the table's size n at most.
func (t *fieldTable) limit(n uint32) {
	if n < t.size {
		t.size, t.resized = n, true
	}
}

// empty evicts all fields, by setting the size to 0 and back (RFC 7541 section 4.3).
func (t *fieldTable) empty() {
	t.forget()
	t.resized, t.emptied = true, true
}

// forget forgets the fields. None is inserted after that, unless they are evicted.
func (t *fieldTable) forget() { t.fields = nil }

// appendUpdates appends the changes of size since the latest block, which a block begins with.
func (t *fieldTable) appendUpdates(b []byte) []byte {
	if !t.resized {
		return b
	}
	if t.emptied {
		b = appendPrefixed(b, sizeUpdate, 5, 0)
	}
	t.resized, t.emptied = false, false
	return appendPrefixed(b, sizeUpdate, 5, uint64(t.size))
}

// appendPrefixed appends an integer that begins in the lower bits of first, of which there are
// so many (RFC 7541 section 5.1).
func appendPrefixed(b []byte, first byte, bits int, n uint64) []byte {
	most := uint64(1)<<bits - 1
	if n < most {
		return append(b, first|byte(n))
	}
	b = append(b, first|byte(most))
	for n -= most; n >= 128; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	return append(b, byte(n))
}
