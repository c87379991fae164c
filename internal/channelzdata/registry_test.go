package channelzdata_test

import (
	"runtime"
	"testing"
	"weak"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/pickfirst"
	"google.golang.org/grpc/channelz"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/grpcdial/grpcdial/internal/channelzdata"
)

// top returns the ids of the top channels from start on, in pages of n.
func top(t *testing.T, start int64, n int, theirs func(int64) bool) []int64 {
	t.Helper()
	var all []int64
	for {
		page, last := channelzdata.TopChannels(start, n, theirs)
		require.LessOrEqual(t, len(page), n)
		for _, r := range page {
			require.GreaterOrEqual(t, r.ID, start)
			all = append(all, r.ID)
			start = r.ID + 1
		}
		if last {
			return all
		}
		require.NotEmpty(t, page, "a page that is not the last has something on it")
	}
}

func TestTopChannelsInPages(t *testing.T) {
	var want []int64
	for range 25 {
		c := openChannel(t, "a")
		want = append(want, c.ID())
	}
	for _, n := range []int{1, 2, 5, 24, 25, 26, 100} {
		assert.Equal(t, want, top(t, want[0], n, nil), "pages of %d", n)
	}
	assert.Equal(t, want[10:], top(t, want[10], 3, nil))
	assert.Equal(t, want, top(t, 0, 3, nil))
	assert.Empty(t, top(t, want[24]+1, 3, nil))

	page, last := channelzdata.TopChannels(want[0], 25, nil)
	assert.Len(t, page, 25)
	assert.True(t, last, "no other follows a page that is just full")
	page, last = channelzdata.TopChannels(want[0], 0, nil)
	assert.Empty(t, page)
	assert.False(t, last)
}

func TestNestedChannels(t *testing.T) {
	parent := channelzdata.Open("parent", nil, nil)
	t.Cleanup(parent.Close)
	child := channelzdata.Open("child", parent.Identifier(), nil)
	t.Cleanup(child.Close)
	grandchild := channelzdata.Open("grandchild", child.Identifier(), nil)
	t.Cleanup(grandchild.Close)

	assert.Equal(t, []int64{parent.ID()}, top(t, 0, 10, nil))
	r := channelRecord(t, parent.ID())
	assert.Equal(t, []channelzdata.Ref{{ID: child.ID(), Name: "child"}}, r.Nested)
	assert.Equal(t, []string{"Channel Created", "Nested Channel Created"}, texts(r.Events))
	assert.Equal(t, channelzdata.Ref{ID: child.ID(), Name: "child"}, r.Events[1].Channel)
	assert.Zero(t, r.Events[1].Subchannel)
	assert.Equal(t, []int64{grandchild.ID()}, ids(channelRecord(t, child.ID()).Nested))

	child.Close()
	r = channelRecord(t, parent.ID())
	assert.Empty(t, r.Nested)
	assert.Equal(t, []string{"Channel Created", "Nested Channel Created", "Nested Channel Deleted"}, texts(r.Events))
	assert.Equal(t, []int64{parent.ID(), grandchild.ID()}, top(t, 0, 10, nil), "an open channel must not be out of reach")
}

func TestChannelNestedInAClosedOne(t *testing.T) {
	parent := channelzdata.Open("parent", nil, nil)
	id := parent.Identifier()
	parent.Close()
	child := channelzdata.Open("child", id, nil)
	t.Cleanup(child.Close)
	assert.Equal(t, []int64{child.ID()}, top(t, 0, 10, nil))
}

// identifiers gets the identifier of each of grpc-go's channels that builds the
// policy takesIdentifier.
var identifiers = make(chan channelz.Identifier, 1)

// takesIdentifier is pick_first under another name.
type takesIdentifier struct{ balancer.Builder }

func init() { balancer.Register(takesIdentifier{balancer.Get(pickfirst.Name)}) }

func (takesIdentifier) Name() string { return "channelzdata_test_takes_identifier" }

func (b takesIdentifier) Build(cc balancer.ClientConn, opts balancer.BuildOptions) balancer.Balancer {
	identifiers <- opts.ChannelzParent
	return b.Builder.Build(cc, opts)
}

// grpcGoIdentifier returns the identifier of a channel of grpc-go's.
func grpcGoIdentifier(t *testing.T) channelz.Identifier {
	t.Helper()
	cc, err := grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"channelzdata_test_takes_identifier":{}}]}`))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, cc.Close()) })
	cc.Connect()
	return <-identifiers
}

func TestChannelNestedInOneOfGRPCGo(t *testing.T) {
	c := channelzdata.Open("child", grpcGoIdentifier(t), nil)
	t.Cleanup(c.Close)

	var foreign int64
	for id, children := range channelzdata.Adopted() {
		assert.Equal(t, []channelzdata.Ref{{ID: c.ID(), Name: "child"}}, children)
		foreign = id
	}
	assert.Positive(t, foreign)
	assert.Less(t, foreign, int64(channelzdata.FirstID))

	assert.Equal(t, []int64{c.ID()}, top(t, 0, 10, nil), "a top one for those who do not see its parent")
	asked := func(open bool) func(int64) bool {
		return func(id int64) bool { return open && id == foreign }
	}
	assert.Equal(t, []int64{c.ID()}, top(t, 0, 10, asked(false)))
	assert.Empty(t, top(t, 0, 10, asked(true)))
}

// notOfChannels is an identifier that stands for nothing that is known here.
type notOfChannels struct{ channelz.Identifier }

func TestChannelNestedInSomethingElse(t *testing.T) {
	for _, parent := range []channelz.Identifier{notOfChannels{}, &notOfChannels{}, (*notOfChannels)(nil)} {
		c := channelzdata.Open("child", parent, nil)
		assert.Equal(t, []int64{c.ID()}, top(t, 0, 10, func(int64) bool { return true }))
		assert.Empty(t, channelzdata.Adopted())
		c.Close()
	}
}

func TestIdentifierReads(t *testing.T) {
	parent := openChannel(t, "parent")
	child := channelzdata.Open("child", parent.Identifier(), nil)
	t.Cleanup(child.Close)
	assert.Equal(t, "Channel #"+itoa(parent.ID()), parent.Identifier().String())
	assert.Equal(t, "Channel #"+itoa(parent.ID())+" Channel #"+itoa(child.ID()), child.Identifier().String())
}

// TestForgottenChannelIsCollected: being in the list does not keep alive what
// its program has dropped without closing it.
func TestForgottenChannelIsCollected(t *testing.T) {
	type program struct {
		data  *channelzdata.Channel
		calls callCounts
	}
	const n = 200
	var left []weak.Pointer[program]
	var known []int64
	for range n {
		p := &program{}
		p.data = channelzdata.Open("a", nil, &p.calls)
		s := p.data.NewSubchannel(addresses("b"))
		s.NewSocket(nil, "", nil)
		known = append(known, p.data.ID(), s.ID())
		left = append(left, weak.Make(p))
	}
	kept := openChannel(t, "kept")
	runtime.GC()
	runtime.GC()
	for i, w := range left {
		require.Nil(t, w.Value(), "channel %d", i)
	}
	for _, id := range known {
		_, ok := channelzdata.FindChannel(id)
		assert.False(t, ok)
		_, ok = channelzdata.FindSubchannel(id)
		assert.False(t, ok)
	}
	assert.Equal(t, []int64{kept.ID()}, top(t, 0, 10, nil))

	for range 2 * n {
		openChannel(t, "more")
	}
	channels, children := channelzdata.Entries()
	assert.Equal(t, 2*n+1, channels, "the entries of the dead are swept out")
	assert.Zero(t, children)
	assert.Equal(t, connectivity.Idle, channelRecord(t, kept.ID()).State)
}
