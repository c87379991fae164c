package channelzdata

import (
	"fmt"
	"reflect"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/channelz"
)

// identifier is a Channel as a channelz.Identifier, which only grpc-go's own
// channels are, because of methods that the interface keeps to itself.
// Embedding provides them.
//
// grpc-go's policies get it as balancer.BuildOptions.ChannelzParent and do two
// things with it. They pass it to grpc.WithChannelzParentID, which looks for
// grpc-go's own type and takes any other for no parent: the channel is a top one
// there. And outlier_detection adds events to it, which calls the methods if
// grpc-go's channelz is switched on, so the embedded value must not be nil.
type identifier struct {
	channelz.Identifier // stranger
	c                   *Channel
}

// String names the channel as grpc-go's log lines do.
func (id identifier) String() string {
	if id.c == nil {
		return "Channel"
	}
	if id.c.parent != nil {
		return fmt.Sprintf("%v Channel #%d", identifier{c: id.c.parent}, id.c.id)
	}
	return fmt.Sprintf("Channel #%d", id.c.id)
}

// stranger is a channel of grpc-go's with FirstID, which grpc-go gives to no channel:
// events recorded for it are dropped.
//
// Its type is internal to grpc-go. It is that of a field of grpc.ClientConn. nil, if a
// version of grpc-go has no such field.
var stranger = sync.OnceValue(func() channelz.Identifier {
	f, ok := reflect.TypeFor[grpc.ClientConn]().FieldByName("channelz")
	if !ok || f.Type.Kind() != reflect.Pointer {
		return nil
	}
	v := reflect.New(f.Type.Elem())
	id := foreignID(v)
	if id == nil {
		return nil
	}
	id.SetInt(FirstID)
	s, _ := v.Interface().(channelz.Identifier)
	return s
})

// foreignID returns the field in which a channel of grpc-go's has its id; nil if v is
// none.
func foreignID(v reflect.Value) *reflect.Value {
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Type().Elem().Kind() != reflect.Struct {
		return nil
	}
	if id := v.Elem().FieldByName("ID"); id.IsValid() && id.Kind() == reflect.Int64 {
		return &id
	}
	return nil
}

// unkept is the Identifier of channels without data.
var unkept = sync.OnceValue(func() channelz.Identifier { return identifier{Identifier: stranger()} })

// Identifier returns what stands for the channel in options of grpc-go's and
// ours that ask for a channelz parent. It is not nil for nil: see identifier.
func (c *Channel) Identifier() channelz.Identifier {
	if c == nil {
		return unkept()
	}
	return identifier{stranger(), c}
}

// parentOf returns the channel that id identifies: one of ours, or the id of one of
// grpc-go's; neither if there is no such channel.
func parentOf(id channelz.Identifier) (ours *Channel, foreign int64) {
	if id == nil {
		return nil, 0
	}
	if ours, ok := id.(identifier); ok {
		return ours.c, 0
	}
	if n := foreignID(reflect.ValueOf(id)); n != nil {
		return nil, n.Int()
	}
	return nil, 0
}
