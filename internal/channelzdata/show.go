package channelzdata

import "github.com/grpcdial/grpcdial/internal/live"

// Show notes what a page can ask for more than its data have.
func (c *Channel) Show(source live.Source) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.source = source
	}
}

// Shown is a channel and what it shows of itself.
type Shown struct {
	ChannelRecord
	Source live.Source // nil: nothing
}

// OpenChannels returns at most n open channels whose ids are start or above, nested ones
// included, in the order of their ids, and how many there are besides.
func OpenChannels(start int64, n int) (page []Shown, more int) {
	for _, id := range open.from(start) {
		c := open.channel(id)
		switch {
		case c == nil:
		case len(page) == n:
			more++
		default:
			r, ok := c.record()
			if !ok {
				continue
			}
			c.mu.Lock()
			source := c.source
			c.mu.Unlock()
			page = append(page, Shown{r, source})
		}
	}
	return page, more
}
