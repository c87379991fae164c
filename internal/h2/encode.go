package h2

import (
	"encoding/base64"
	"hash/maphash"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// headerEncoder writes the header blocks of one connection. Guarded by
// Conn.mu, under which blocks are also queued: the peer decodes them in the order
// they were encoded.
//
// What goes into the dynamic table (RFC 7541) is decided here, so that nothing is ever
// evicted: fields that every call repeats, metadata once it is seen for the
// second time, and a few time-outs that come again, until the table is nearly full. Long values, a bearer token for one, leave
// a part of it free for others. From then on the table stands still, and unknown fields are
// written as literals without indexing.
//
// Tokens are replaced in time, and the old ones stay. So once metadata that comes again and again
// and has found no place has cost as much as filling the table many times, the table is
// emptied, and what is in use is inserted again.
//
// A block that repeated an earlier one without inserting anything consists of
// indices alone. It is kept and copied until the next insertion or size change,
// which shifts all indices: a stale copy would call another method.
type headerEncoder struct {
	dst      []byte              // where fields are appended
	table    fieldTable          // what was inserted
	frozen   bool                // nothing is inserted any more
	room     int                 // bytes of the table that may still be filled
	missed   int                 // bytes of metadata and time-outs that came again and had no place in the table
	epoch    uint64              // counts insertions and size changes
	seen     *[64]uint64         // hashes of metadata seen once
	timeouts *timeouts           // nil before the first
	block    map[fixedKey][]byte // blocks of indices alone, valid for this epoch; nil while there is no other than lastB
	last     fixedKey            // the key of lastB, which saves the map's look-up
	lastB    []byte
}

// fixedKey names the fields that are the same for each call of a method.
type fixedKey struct{ method, authority, subtype, encoding, accept string }

const (
	tableSlack  = 256 // of the table, left free so that nothing is evicted by a miscount
	maxBlocks   = 256 // kept blocks
	initialRoom = defaultTableSize - tableSlack
	longField   = 512      // a field that is longer than this ...
	longSpares  = 1 << 10  // ... leaves so much of the table to others
	emptyAfter  = 32 << 10 // missed
)

var metadataSeed = maphash.MakeSeed()

// encoder returns the connection's encoder, which the first call makes. mu is held.
func (c *Conn) encoder() *headerEncoder {
	if c.enc == nil {
		c.enc = &headerEncoder{room: initialRoom, table: fieldTable{size: defaultTableSize}}
	}
	return c.enc
}

// setTableSize applies the peer's SETTINGS_HEADER_TABLE_SIZE. The encoder
// announces it at the start of the next block.
func (e *headerEncoder) setTableSize(n uint32) {
	e.table.limit(n)
	e.changed()
	if n < defaultTableSize {
		// Some of what is known may be evicted by this. Nothing is inserted any more, so that
		// the table stays as it is from here on.
		e.table.forget()
		e.timeouts = nil
		e.frozen, e.room = true, 0
	}
}

// empty evicts all that is in the table.
func (e *headerEncoder) empty() {
	e.table.empty()
	e.changed()
	e.timeouts = nil
	e.room, e.missed = initialRoom, 0
}

func (e *headerEncoder) changed() {
	e.epoch++
	clear(e.block)
	e.last, e.lastB = fixedKey{}, nil
}

// appendRequest appends the header block of r to b.
func (e *headerEncoder) appendRequest(b []byte, c *Config, r *Request, timeout time.Duration) []byte {
	if e.missed >= emptyAfter {
		e.empty()
	}
	e.dst = e.table.appendUpdates(b)
	e.fixed(c, r)
	if r.PreviousAttempts > 0 {
		e.literal("grpc-previous-rpc-attempts", strconv.Itoa(r.PreviousAttempts))
	}
	if timeout > 0 {
		e.timeout(timeout)
	}
	for i := 0; i+1 < len(r.Extra); i += 2 {
		if !isReserved(r.Extra[i]) {
			e.metadata(r.Extra[i], r.Extra[i+1])
		}
	}
	for k, vv := range r.Metadata {
		if isReserved(k) {
			continue
		}
		for _, v := range vv {
			e.metadata(k, v)
		}
	}
	b, e.dst = e.dst, nil
	return b
}

func (e *headerEncoder) fixed(c *Config, r *Request) {
	key := fixedKey{r.Method, r.Authority, r.ContentSubtype, r.Encoding, r.AcceptEncoding}
	if e.lastB != nil && key == e.last {
		e.dst = append(e.dst, e.lastB...)
		return
	}
	if b, ok := e.block[key]; ok {
		e.last, e.lastB = key, b
		e.dst = append(e.dst, b...)
		return
	}
	start, epoch := len(e.dst), e.epoch
	e.dst = append(e.dst, methodPOST)
	if c.Scheme == "https" {
		e.dst = append(e.dst, schemeHTTPS)
	} else {
		e.dst = append(e.dst, schemeHTTP)
	}
	e.indexed(":path", r.Method)
	e.indexed(":authority", r.Authority)
	if r.ContentSubtype == "" {
		e.indexed("content-type", "application/grpc")
	} else {
		e.indexed("content-type", "application/grpc+"+r.ContentSubtype)
	}
	e.indexed("user-agent", c.UserAgent)
	e.indexed("te", "trailers")
	if r.Encoding != "" {
		e.indexed("grpc-encoding", r.Encoding)
	}
	if r.AcceptEncoding != "" {
		e.indexed("grpc-accept-encoding", r.AcceptEncoding)
	}
	if e.epoch != epoch || len(e.block) >= maxBlocks {
		return
	}
	// Nothing was inserted, so the block means the same when it is sent again.
	if e.block == nil && e.lastB != nil { // a second one: channels that call one method only need no map
		e.block = map[fixedKey][]byte{e.last: e.lastB}
	}
	kept := append([]byte(nil), e.dst[start:]...)
	key.method, key.authority = strings.Clone(key.method), strings.Clone(key.authority)
	if e.block != nil {
		e.block[key] = kept
	}
	e.last, e.lastB = key, kept
}

// indexed writes a field by its index if it is known, inserts it if there is
// room, and else writes a literal.
func (e *headerEncoder) indexed(name, value string) {
	if at := e.table.find(name, value); at >= 0 {
		e.dst = e.table.appendIndex(e.dst, at)
		return
	}
	size := len(name) + len(value) + fieldOverhead
	if !e.fits(size) {
		e.literal(name, value)
		return
	}
	e.room -= size
	e.dst = e.table.appendInsertion(e.dst, name, strings.Clone(value))
	e.changed()
}

// fits reports whether a field of that size may be inserted.
func (e *headerEncoder) fits(size int) bool {
	if size > longField {
		size += longSpares
	}
	return size <= e.room
}

// metadata writes one field of the application's. A value is worth a place in
// the table if it comes again.
func (e *headerEncoder) metadata(name, value string) {
	if isBinary(name) {
		value = base64.RawStdEncoding.EncodeToString([]byte(value))
	}
	if size := len(name) + len(value) + fieldOverhead; !e.frozen && size+longSpares <= initialRoom {
		ok := e.table.find(name, value) >= 0
		if ok || e.again(name, value) {
			if !ok && !e.fits(size) {
				e.missed += size
			}
			e.indexed(name, value)
			return
		}
	}
	e.literal(name, value)
}

// again reports whether the field was seen before, and remembers it.
func (e *headerEncoder) again(name, value string) bool {
	if e.seen == nil {
		e.seen = new([64]uint64)
	}
	h := maphash.String(metadataSeed, value) ^ maphash.String(metadataSeed, name)*31
	// In one of eight places for eight fields each, the latest first: were there one in a
	// place, two fields of every call that share it would displace each other for ever.
	const ways = 8
	set := e.seen[h%(uint64(len(e.seen))/ways)*ways:][:ways]
	if slices.Contains(set, h) {
		return true
	}
	copy(set[1:], set)
	set[0] = h
	return false
}

// literal writes a literal field without indexing (RFC 7541 section 6.2.2).
func (e *headerEncoder) literal(name, value string) {
	e.dst = append(e.dst, 0)
	e.dst = appendHpackString(e.dst, name)
	e.dst = appendHpackString(e.dst, value)
}

// appendHpackString appends a string literal (RFC 7541 section 5.2), Huffman-coded where
// that is shorter.
func appendHpackString(b []byte, s string) []byte {
	if n := hpack.HuffmanEncodeLength(s); n < uint64(len(s)) {
		b = appendPrefixed(b, 0x80, 7, n)
		return hpack.AppendHuffmanString(b, s)
	}
	b = appendPrefixed(b, 0, 7, uint64(len(s)))
	return append(b, s...)
}

// listSize is the size of r's header list as SETTINGS_MAX_HEADER_LIST_SIZE
// counts it (RFC 9113 section 6.5.2). It counts what appendRequest writes.
func (r *Request) listSize(c *Config, timeout time.Duration) uint64 {
	n := uint64(0)
	add := func(name string, value int) { n += uint64(len(name)+value) + 32 }
	add(":method", len("POST"))
	add(":scheme", len(c.Scheme))
	add(":path", len(r.Method))
	add(":authority", len(r.Authority))
	if r.ContentSubtype == "" {
		add("content-type", len("application/grpc"))
	} else {
		add("content-type", len("application/grpc+")+len(r.ContentSubtype))
	}
	add("user-agent", len(c.UserAgent))
	add("te", len("trailers"))
	if r.Encoding != "" {
		add("grpc-encoding", len(r.Encoding))
	}
	if r.AcceptEncoding != "" {
		add("grpc-accept-encoding", len(r.AcceptEncoding))
	}
	if r.PreviousAttempts > 0 {
		add("grpc-previous-rpc-attempts", len(strconv.Itoa(r.PreviousAttempts)))
	}
	if timeout > 0 {
		var b [16]byte
		add("grpc-timeout", len(appendTimeout(b[:0], timeout)))
	}
	metadata := func(k, v string) {
		switch {
		case isReserved(k):
		case isBinary(k):
			add(k, base64.RawStdEncoding.EncodedLen(len(v)))
		default:
			add(k, len(v))
		}
	}
	for k, vv := range r.Metadata {
		for _, v := range vv {
			metadata(k, v)
		}
	}
	for i := 0; i+1 < len(r.Extra); i += 2 {
		metadata(r.Extra[i], r.Extra[i+1])
	}
	return n
}

// appendHeaders appends HEADERS, and CONTINUATION where the block is longer than
// a frame may be.
func (e *headerEncoder) appendHeaders(b []byte, c *Config, r *Request, timeout time.Duration, id uint32, endStream bool, maxFrame int) []byte {
	var flags http2.Flags
	if endStream {
		flags = http2.FlagHeadersEndStream
	}
	at := len(b)
	b = appendFrameHeader(b, 0, http2.FrameHeaders, flags|http2.FlagHeadersEndHeaders, id)
	b = e.appendRequest(b, c, r, timeout)
	n := len(b) - at - frameHeaderLen
	if n <= maxFrame {
		putFrameLength(b, at, n)
		return b
	}
	block := append([]byte(nil), b[at+frameHeaderLen:]...)
	b = appendFrameHeader(b[:at], maxFrame, http2.FrameHeaders, flags, id)
	b = append(b, block[:maxFrame]...)
	for block = block[maxFrame:]; len(block) > 0; {
		n, flags := min(len(block), maxFrame), http2.Flags(0)
		if n == len(block) {
			flags = http2.FlagContinuationEndHeaders
		}
		b = appendFrameHeader(b, n, http2.FrameContinuation, flags, id)
		b = append(b, block[:n]...)
		block = block[n:]
	}
	return b
}
