package h2

import (
	"bytes"
	"fmt"
	"strings"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// block is one decoded header block. It belongs to the reader and is reused
// for a later one; the strings in it are immutable and may be kept.
type block struct {
	indices []byte // the encoded block, if it means the same when it comes again; see headerDecoder.repeated

	fields      []hpack.HeaderField // what the application may see; "-bin" values are decoded
	httpStatus  string
	contentType string
	grpcStatus  string
	rare        *rarity // nil before the first; see rarities and addRarity
	wire        int     // encoded size

	size      uint64
	regular   bool // a field that is no pseudo-header was seen
	truncated bool // the list was larger than this side accepts
	badPseudo bool // a violation concerns pseudo-headers, so that httpStatus means nothing
}

// rarity is what few blocks have. A connection at rest keeps two blocks.
type rarity struct {
	message   string // still percent-encoded
	details   []string
	encoding  string
	malformed string // the first violation of HTTP found; fatal to the stream
	badBinary string // the first value of a "-bin" field that is malformed, if any
}

var noRarity = new(rarity)

// rarities returns what the block has of that, to be read only.
func (b *block) rarities() *rarity {
	if b.rare == nil {
		return noRarity
	}
	return b.rare
}

// addRarity returns the rarities to add one to.
func (b *block) addRarity() *rarity {
	if b.rare == nil {
		b.rare = new(rarity)
	}
	return b.rare
}

// begin makes b a new block of wire bytes. Inlined, it would leave its caller less stack for what
// goes deeper.
//
//go:noinline
func (b *block) begin(wire int) {
	if b.rare != nil {
		*b.rare = rarity{} // once made it is used again
	}
	*b = block{fields: emptied(b.fields), indices: b.indices[:0], rare: b.rare, wire: wire}
}

// maxKeptFields is how many fields a block, or a stream that serves again, keeps room for.
const maxKeptFields = 64

// headerDecoder decodes the header blocks of one connection. It is used by the
// reader alone. Every block is decoded, whatever becomes of its stream, because each may
// change the dynamic table (RFC 9113 section 4.3).
type headerDecoder struct {
	dec    *hpack.Decoder // nil before the first block
	limit  uint32
	blocks [2]block // the latest ones: as a rule what a response begins with, and its trailers
	into   *block   // the one of them that was decoded last

	// The block that is being assembled from HEADERS and CONTINUATION.
	id            uint32 // 0: none
	endStream     bool
	apart         uint8 // blocks so far that were decoded on goroutines of their own; see write
	continuations int
	held          []byte // its fragments, if there are several, and the whole until it is decoded
	wire          int    // its encoded size so far
}

// maxBlock is the largest block that is decoded, in encoded bytes. An encoding
// that is this much longer than the list may be is not worth decoding.
func (d *headerDecoder) maxBlock() uint64 { return 2*uint64(d.limit) + maxFrameSize }

// begin starts the block of stream id.
func (d *headerDecoder) begin(id uint32, endStream bool) {
	d.id, d.endStream, d.continuations, d.held, d.wire = id, endStream, 0, nil, 0
	if d.dec == nil {
		d.dec = hpack.NewDecoder(4096, d.emit)
		// A string beyond the limit on the list ends the stream, not the
		// connection; gather bounds the block.
		d.dec.SetMaxStringLength(int(min(d.maxBlock(), 1<<30)))
	}
}

// emptied is fields for use again, unless they were unusually many.
func emptied(fields []hpack.HeaderField) []hpack.HeaderField {
	if cap(fields) > maxKeptFields {
		return nil
	}
	clear(fields)
	return fields[:0]
}

// gather takes one fragment, the last of the block if end is set. A decoder that is given
// a long string in pieces copies what it has of it for each, so it is given the whole.
func (d *headerDecoder) gather(p []byte, end bool) error {
	d.wire += len(p)
	if uint64(d.wire) > d.maxBlock() {
		return connErrorf(http2.ErrCodeEnhanceYourCalm, "a header block of more than %d bytes", d.maxBlock())
	}
	if !end || len(d.held) > 0 {
		d.held = append(d.held, p...)
		p = d.held
	}
	if end {
		d.held = p
	}
	return nil
}

// decode decodes the block that was gathered. One that is not wanted changes the dynamic
// table, and its fields are not looked at. What it returns is valid until the next call.
func (d *headerDecoder) decode(wanted bool) (*block, error) {
	whole := d.held
	d.id, d.held = 0, nil
	if b := d.repeated(whole); b != nil {
		return b, nil
	}
	b := &d.blocks[0]
	if d.into == b {
		b = &d.blocks[1]
	}
	b.begin(len(whole))
	d.into = b
	d.dec.SetEmitEnabled(wanted)
	if err := d.write(whole); err != nil {
		return nil, d.failed(err)
	}
	switch {
	case !areIndices(whole):
		// The table may have changed.
		for i := range d.blocks {
			d.blocks[i].indices = d.blocks[i].indices[:0]
		}
	case wanted && len(whole) <= maxKeptFields:
		b.indices = append(b.indices, whole...)
	}
	return b, nil
}

// blocksApart is how many blocks are decoded on goroutines of their own: those of the first
// two responses, as a rule. From then on most servers repeat themselves.
const blocksApart = 4

// write gives a whole block to the hpack decoder. That needs more stack than the goroutine of a
// connection begins with, and a stack that has grown stays large while its goroutine waits for
// bytes. So the first blocks are decoded on goroutines that end at once: they cost about
// a microsecond each, and a connection that makes calls now and then keeps its small stack. One on
// which blocks keep changing is in use, and has a larger one.
//
// The reader waits meanwhile, so all is its own as before.
func (d *headerDecoder) write(whole []byte) error {
	if d.apart == blocksApart {
		return d.writeHere(whole)
	}
	d.apart++
	written := make(chan error)
	go func() { written <- d.writeHere(whole) }()
	return <-written
}

func (d *headerDecoder) writeHere(whole []byte) error {
	if _, err := d.dec.Write(whole); err != nil {
		return err
	}
	return d.dec.Close()
}

// repeated returns one of the latest blocks, if whole is the same: a server answers most RPCs
// alike. It must be of indices alone, and the blocks since then too, so that the dynamic table
// has not changed: else the same bytes may be other fields.
func (d *headerDecoder) repeated(whole []byte) *block {
	for i := range d.blocks {
		if b := &d.blocks[i]; len(b.indices) > 0 && bytes.Equal(b.indices, whole) {
			return b
		}
	}
	return nil
}

// areIndices reports whether a block consists of fields that are one byte each, an index
// (RFC 7541 section 6.1).
func areIndices(block []byte) bool {
	for _, c := range block {
		if c <= indexedField || c == indexedField|0x7f {
			return false
		}
	}
	return true
}

func (d *headerDecoder) failed(err error) error {
	return connErrorf(http2.ErrCodeCompression, "cannot decode a header block: %v", err)
}

// emit takes one field from the hpack decoder.
func (d *headerDecoder) emit(f hpack.HeaderField) {
	b := d.into
	b.size += uint64(f.Size())
	if b.size > uint64(d.limit) {
		b.truncated = true
		clear(b.fields)
		b.fields = b.fields[:0]
		d.dec.SetEmitEnabled(false)
		return
	}
	if f.IsPseudo() {
		b.badPseudo = b.badPseudo || b.regular || f.Name != ":status" || b.httpStatus != ""
		switch {
		case b.regular:
			b.violation("pseudo-header %q after a regular field", f.Name)
		case f.Name != ":status":
			b.violation("unknown pseudo-header %q", f.Name)
		case b.httpStatus != "":
			b.violation("a second :status")
		default:
			b.httpStatus = f.Value
		}
		return
	}
	b.regular = true
	if !validName(f.Name) {
		b.violation("invalid field name %q", f.Name)
		return
	}
	if !httpguts.ValidHeaderFieldValue(f.Value) {
		b.violation("invalid value of field %q", f.Name)
		return
	}
	switch f.Name {
	case "content-type":
		b.contentType = f.Value
		b.fields = append(b.fields, f)
	case "grpc-status":
		b.grpcStatus = f.Value
	case "grpc-message":
		if f.Value != "" { // grpc-go's servers send one that is empty with OK
			b.addRarity().message = f.Value
		}
	case "grpc-encoding":
		b.addRarity().encoding = f.Value
	case "user-agent":
		b.fields = append(b.fields, f)
	default:
		switch {
		case isReserved(f.Name):
		case isBinary(f.Name):
			b.binary(f)
		default:
			b.fields = append(b.fields, f)
		}
	}
}

func (b *block) binary(f hpack.HeaderField) {
	values, err := decodeBinary(f.Value)
	if err != nil {
		if r := b.addRarity(); r.badBinary == "" {
			r.badBinary = fmt.Sprintf("malformed response headers: %s: %v", f.Name, err)
		}
		return
	}
	if f.Name == "grpc-status-details-bin" {
		r := b.addRarity()
		r.details = append(r.details, values...)
	}
	for _, v := range values {
		b.fields = append(b.fields, hpack.HeaderField{Name: f.Name, Value: v})
	}
}

// flaw is why the stream ends here, whatever its response is, and how; empty if it does
// not.
func (b *block) flaw(limit uint32) (what string, rst http2.ErrCode) {
	switch {
	case b.rarities().malformed != "":
		return "malformed response headers: " + b.rare.malformed, http2.ErrCodeProtocol
	case b.truncated:
		return fmt.Sprintf("peer header list size exceeded limit: more than %d bytes", limit), http2.ErrCodeFrameSize
	}
	return "", 0
}

func (b *block) violation(format string, args ...any) {
	if r := b.addRarity(); r.malformed == "" {
		r.malformed = fmt.Sprintf(format, args...)
	}
}

// validName reports whether name is a token in lower case (RFC 9113 section 8.2.1).
func validName(name string) bool {
	if name == "" {
		return false
	}
	for i := 0; i < len(name); i++ {
		c := name[i]
		if c >= 0x80 || 'A' <= c && c <= 'Z' || !httpguts.IsTokenRune(rune(c)) {
			return false
		}
	}
	return true
}

// isGRPCType reports whether a content-type is gRPC's, with or without a subtype.
func isGRPCType(contentType string) bool {
	const base = "application/grpc"
	if len(contentType) < len(base) || !strings.EqualFold(contentType[:len(base)], base) {
		return false
	}
	rest := contentType[len(base):]
	return rest == "" || rest[0] == '+' || rest[0] == ';'
}
