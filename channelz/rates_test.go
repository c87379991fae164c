package channelz

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/grpcdial/grpcdial/internal/channelzdata"
)

// TestRates: the first look has the average since the counters were 0, the later ones
// that of the latest seconds, and looks that are far apart that of the time between.
func TestRates(t *testing.T) {
	var r rates
	created := time.Now()
	at := func(second int, started, failed int64) rate {
		return r.since(1, created, created.Add(time.Duration(second)*time.Second), channelzdata.Calls{Started: started, Failed: failed})
	}
	assert.Zero(t, at(0, 5, 0), "not known")
	assert.Equal(t, rate{10, 1, 10 * time.Second}, at(10, 105, 10), "since the sample before")
	assert.Equal(t, rate{10, 1, rateWindow}, at(12, 125, 12), "as far back as the window goes")
	for s := 13; s <= 60; s++ {
		got := at(s, int64(125+20*(s-12)), 12)
		if s >= 40 {
			assert.Equal(t, rate{20, 0, rateWindow}, got)
		}
	}
	assert.LessOrEqual(t, len(r.samples[1]), 14)
	assert.Equal(t, rate{1, 1, 100 * time.Second}, at(160, 1085+100, 112), "looked at again after a while")
	r.forget(created.Add(time.Hour))
	assert.Empty(t, r.samples)
}
