package channelz

import (
	"slices"
	"sync"
	"time"

	"github.com/grpcdial/grpcdial/internal/channelzdata"
)

const (
	rateWindow = 12 * time.Second // what a rate is taken over, if the page is looked at that often
	rateStep   = time.Second      // between samples
	rateKept   = 5 * time.Minute  // how long the samples of a channel are kept that is not looked at
)

// rates turns counters into rates, by what they were at earlier looks at the page.
type rates struct {
	mu      sync.Mutex
	samples map[int64][]sample // guarded by mu: by the ids of channels and subchannels, oldest first
}

// sample is what the counters of a channel or subchannel were at some time.
type sample struct {
	at              time.Time
	started, failed int64
}

// rate is how many RPCs a second were started, and how many of them failed, in the time
// before now.
type rate struct {
	started, failed float64
	over            time.Duration // 0: it is not known
}

// since returns the rate up to now and notes the sample. created is when the counters
// were 0.
func (r *rates) since(id int64, created, now time.Time, n channelzdata.Calls) rate {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.samples == nil {
		r.samples = make(map[int64][]sample)
	}
	was := r.samples[id]
	before := sample{at: created}
	for _, s := range slices.Backward(was) {
		age := now.Sub(s.at)
		if age < rateStep {
			continue
		}
		if age > rateWindow && before.at != created {
			break
		}
		before = s
	}
	if len(was) == 0 || now.Sub(was[len(was)-1].at) >= rateStep {
		was = slices.DeleteFunc(was, func(s sample) bool { return now.Sub(s.at) > rateWindow && s != before })
		r.samples[id] = append(was, sample{now, n.Started, n.Failed})
	}
	over := now.Sub(before.at)
	if over < rateStep {
		return rate{}
	}
	return rate{
		started: float64(n.Started-before.started) / over.Seconds(),
		failed:  float64(n.Failed-before.failed) / over.Seconds(),
		over:    over,
	}
}

// forget removes what has not been looked at lately.
func (r *rates) forget(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, s := range r.samples {
		if now.Sub(s[len(s)-1].at) > rateKept {
			delete(r.samples, id)
		}
	}
}
