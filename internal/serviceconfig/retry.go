package serviceconfig

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// defaultMaxCallAttempts bounds RetryPolicy.MaxAttempts if the user sets no bound.
const defaultMaxCallAttempts = 5

const (
	wantAttempts   = "2 or more"
	wantBackoff    = `a duration above 0, such as "0.1s"`
	wantMultiplier = "a number above 0"
	wantCodes      = `one status code or more, such as ["UNAVAILABLE"]`
	wantTokens     = "a number above 0 and at most 1000"
	wantRatio      = "0.001 or more (further decimal places are ignored)"
)

// parseRetryPolicy reads retryPolicy (gRFC A6, "Integration with Service
// Config"). All its fields are required. raw may be absent: nil.
func parseRetryPolicy(field string, raw json.RawMessage, maxAttempts int) (*RetryPolicy, error) {
	if absent(raw) {
		return nil, nil
	}
	var o struct {
		MaxAttempts          json.RawMessage `json:"maxAttempts"`
		InitialBackoff       json.RawMessage `json:"initialBackoff"`
		MaxBackoff           json.RawMessage `json:"maxBackoff"`
		BackoffMultiplier    json.RawMessage `json:"backoffMultiplier"`
		RetryableStatusCodes json.RawMessage `json:"retryableStatusCodes"`
		PerAttemptTimeout    json.RawMessage `json:"perAttemptRecvTimeout"`
	}
	if err := readObject(field, raw, &o); err != nil {
		return nil, err
	}
	attempts, err := parseMaxAttempts(field+".maxAttempts", o.MaxAttempts, maxAttempts)
	if err != nil {
		return nil, err
	}
	p := &RetryPolicy{MaxAttempts: attempts}
	if p.InitialBackoff, err = parseBackoff(field+".initialBackoff", o.InitialBackoff); err != nil {
		return nil, err
	}
	if p.MaxBackoff, err = parseBackoff(field+".maxBackoff", o.MaxBackoff); err != nil {
		return nil, err
	}
	if p.BackoffMultiplier, err = parsePositive(field+".backoffMultiplier", o.BackoffMultiplier, wantMultiplier); err != nil {
		return nil, err
	}
	if !absent(o.PerAttemptTimeout) {
		if p.PerAttemptRecvTimeout, err = parseBackoff(field+".perAttemptRecvTimeout", o.PerAttemptTimeout); err != nil {
			return nil, err
		}
		if absent(o.RetryableStatusCodes) || string(o.RetryableStatusCodes) == "[]" {
			return p, nil // the time-out is reason enough
		}
	}
	if p.RetryableStatusCodes, err = parseCodes(field+".retryableStatusCodes", o.RetryableStatusCodes); err != nil {
		return nil, err
	}
	return p, nil
}

const wantDelay = `a duration of 0 or more, such as "0.1s"`

// parseHedgingPolicy reads hedgingPolicy (gRFC A6). maxAttempts is required; without a
// hedgingDelay all attempts are sent at once, and without nonFatalStatusCodes the first
// answer of any kind counts. raw may be absent: nil.
func parseHedgingPolicy(field string, raw json.RawMessage, maxAttempts int) (*HedgingPolicy, error) {
	if absent(raw) {
		return nil, nil
	}
	var o struct {
		MaxAttempts         json.RawMessage `json:"maxAttempts"`
		HedgingDelay        json.RawMessage `json:"hedgingDelay"`
		NonFatalStatusCodes json.RawMessage `json:"nonFatalStatusCodes"`
	}
	if err := readObject(field, raw, &o); err != nil {
		return nil, err
	}
	attempts, err := parseMaxAttempts(field+".maxAttempts", o.MaxAttempts, maxAttempts)
	if err != nil {
		return nil, err
	}
	p := &HedgingPolicy{MaxAttempts: attempts}
	if !absent(o.HedgingDelay) {
		if p.HedgingDelay, err = readDuration(field+".hedgingDelay", o.HedgingDelay); err != nil {
			return nil, err
		}
		if p.HedgingDelay < 0 {
			return nil, wrong(field+".hedgingDelay", o.HedgingDelay, wantDelay)
		}
	}
	if !absent(o.NonFatalStatusCodes) {
		if p.NonFatalStatusCodes, err = readCodes(field+".nonFatalStatusCodes", o.NonFatalStatusCodes); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func parseMaxAttempts(field string, raw json.RawMessage, limit int) (int, error) {
	if absent(raw) {
		return 0, wrong(field, nil, wantAttempts)
	}
	n, err := readInt(field, raw, wantAttempts)
	if err != nil {
		return 0, err
	}
	if n < 2 {
		return 0, wrong(field, raw, wantAttempts)
	}
	return int(min(n, int64(limit))), nil
}

func parseBackoff(field string, raw json.RawMessage) (time.Duration, error) {
	if absent(raw) {
		return 0, wrong(field, nil, wantBackoff)
	}
	d, err := readDuration(field, raw)
	if err != nil {
		return 0, err
	}
	if d <= 0 {
		return 0, wrong(field, raw, wantBackoff)
	}
	return d, nil
}

func parsePositive(field string, raw json.RawMessage, want string) (float64, error) {
	if absent(raw) {
		return 0, wrong(field, nil, want)
	}
	f, err := readFloat(field, raw, want)
	if err != nil {
		return 0, err
	}
	if f <= 0 {
		return 0, wrong(field, raw, want)
	}
	return f, nil
}

func parseCodes(field string, raw json.RawMessage) (CodeSet, error) {
	if absent(raw) {
		return 0, wrong(field, nil, wantCodes)
	}
	set, err := readCodes(field, raw)
	if err == nil && set == 0 {
		err = wrong(field, raw, wantCodes)
	}
	return set, err
}

// readCodes decodes a list of status codes, which may be empty.
func readCodes(field string, raw json.RawMessage) (CodeSet, error) {
	list, err := readList(field, raw)
	if err != nil {
		return 0, err
	}
	var set CodeSet
	for i, element := range list {
		c, err := readCode(fmt.Sprintf("%s[%d]", field, i), element)
		if err != nil {
			return 0, err
		}
		set = set.With(c)
	}
	return set, nil
}

// parseRetryThrottling reads retryThrottling (gRFC A6). Both its fields are
// required. raw may be absent: nil.
func parseRetryThrottling(raw json.RawMessage) (*RetryThrottling, error) {
	const field = "retryThrottling"
	if absent(raw) {
		return nil, nil
	}
	var o struct {
		MaxTokens  json.RawMessage `json:"maxTokens"`
		TokenRatio json.RawMessage `json:"tokenRatio"`
	}
	if err := readObject(field, raw, &o); err != nil {
		return nil, err
	}
	tokens, err := parsePositive(field+".maxTokens", o.MaxTokens, wantTokens)
	if err != nil {
		return nil, err
	}
	if tokens > 1000 {
		return nil, wrong(field+".maxTokens", o.MaxTokens, wantTokens)
	}
	ratio, err := parsePositive(field+".tokenRatio", o.TokenRatio, wantRatio)
	if err != nil {
		return nil, err
	}
	if ratio = cutToThousandths(ratio); ratio == 0 {
		return nil, wrong(field+".tokenRatio", o.TokenRatio, wantRatio)
	}
	return &RetryThrottling{MaxTokens: tokens, TokenRatio: ratio}, nil
}

// cutToThousandths drops what follows the third decimal place. It works on the
// decimal text, as 1.001*1000 is less than 1001 in binary.
func cutToThousandths(f float64) float64 {
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if dot := strings.IndexByte(s, '.'); dot >= 0 && len(s) > dot+4 {
		s = s[:dot+4]
	}
	cut, _ := strconv.ParseFloat(s, 64) // s is a part of what FormatFloat wrote
	return cut
}
