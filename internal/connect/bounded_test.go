package connect

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestBounded(t *testing.T) {
	boom := errors.New("boom")
	const limit = time.Second
	tests := []struct {
		name        string
		f           func(ctx context.Context, interrupted <-chan struct{}) (int, error)
		v           int
		err         error
		took        time.Duration
		interrupted bool
		dropped     time.Duration // when; 0: never
	}{
		{"returns in time",
			func(context.Context, <-chan struct{}) (int, error) { return 7, nil },
			7, nil, 0, false, 0},
		{"fails in time",
			func(context.Context, <-chan struct{}) (int, error) { return 0, boom },
			0, boom, 0, false, 0},
		{"ends its goroutine",
			func(context.Context, <-chan struct{}) (int, error) { runtime.Goexit(); return 0, nil },
			0, errNoReturn, 0, false, 0},
		{"heeds the context",
			func(ctx context.Context, _ <-chan struct{}) (int, error) {
				<-ctx.Done()
				return 0, fmt.Errorf("said: %w", ctx.Err())
			},
			0, context.DeadlineExceeded, limit, true, 0},
		{"heeds the interruption",
			func(_ context.Context, interrupted <-chan struct{}) (int, error) { <-interrupted; return 0, boom },
			0, context.DeadlineExceeded, limit, true, 0},
		{"succeeds a little late",
			func(context.Context, <-chan struct{}) (int, error) {
				time.Sleep(limit + patience/2)
				return 7, nil
			},
			0, context.DeadlineExceeded, limit + patience/2, true, limit + patience/2},
		{"succeeds much too late",
			func(context.Context, <-chan struct{}) (int, error) { time.Sleep(5 * limit); return 7, nil },
			0, context.DeadlineExceeded, limit + patience, true, 5 * limit},
		{"fails much too late",
			func(context.Context, <-chan struct{}) (int, error) { time.Sleep(5 * limit); return 0, boom },
			0, context.DeadlineExceeded, limit + patience, true, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				defer cancel()
				start := time.Now()
				interrupted := make(chan struct{})
				var dropped time.Duration
				v, err := bounded(ctx,
					func() (int, error) { return tt.f(ctx, interrupted) },
					func() { close(interrupted) },
					func(v int) { assert.Equal(t, 7, v); dropped = time.Since(start) })

				assert.Equal(t, tt.v, v)
				if tt.err == nil {
					require.NoError(t, err)
				} else {
					require.ErrorIs(t, err, tt.err)
				}
				assert.Equal(t, tt.took, time.Since(start))
				select {
				case <-interrupted:
					assert.True(t, tt.interrupted)
				default:
					assert.False(t, tt.interrupted)
				}
				time.Sleep(10 * limit)
				synctest.Wait()
				assert.Equal(t, tt.dropped, dropped)
			})
		})
	}
}
