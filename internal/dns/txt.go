package dns

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"

	grpcsc "google.golang.org/grpc/serviceconfig"
)

// Service configs in TXT records, gRFC A2.
const (
	txtPrefix    = "_grpc_config."
	txtAttribute = "grpc_config="
	language     = "go"
)

// learn takes the answer about the service config and says whether it changed.
// A look-up that failed says nothing: the last answer stays.
func (r *hostResolver) learn(a txtAnswer) (changed bool) {
	if notFound := (*net.DNSError)(nil); a.err != nil && !(errors.As(a.err, &notFound) && notFound.IsNotFound) {
		return false
	}
	dice := rand.New(rand.NewPCG(r.seed[0], r.seed[1]))
	js, err := chooseConfig(a.records, dice, os.Hostname)
	key := js
	if err != nil {
		err = fmt.Errorf("the service config in the TXT record of %q: %w", txtPrefix+r.host, err)
		key = err.Error()
	}
	if key == r.configKey {
		return false
	}
	r.configKey = key
	switch {
	case err != nil:
		r.config = &grpcsc.ParseResult{Err: err}
	case js == "":
		r.config = nil
	default:
		r.config = r.cc.ParseServiceConfig(js)
	}
	return true
}

// choice is an entry of the list that the record holds. Fields that are absent
// or empty match all clients.
type choice struct {
	ClientLanguage []string        `json:"clientLanguage"`
	Percentage     *int            `json:"percentage"`
	ClientHostname []string        `json:"clientHostname"`
	ServiceConfig  json.RawMessage `json:"serviceConfig"`
}

// chooseConfig returns the service config that TXT records have for this
// client, empty if they have none. The first choice that matches wins. One that
// is malformed makes the whole record invalid, wherever it stands, so that it is
// not for the dice to find it.
//
// Of several records with the attribute the one that sorts first is taken: their
// order in an answer means nothing. dice has to fall the same way each time for
// one client, or the client would change its mind with each look-up.
func chooseConfig(records []string, dice *rand.Rand, hostname func() (string, error)) (string, error) {
	records = slices.DeleteFunc(slices.Clone(records), func(s string) bool { return !strings.HasPrefix(s, txtAttribute) })
	if len(records) == 0 {
		return "", nil
	}
	var choices []choice
	d := json.NewDecoder(strings.NewReader(strings.TrimPrefix(slices.Min(records), txtAttribute)))
	d.DisallowUnknownFields()
	if err := d.Decode(&choices); err != nil {
		return "", fmt.Errorf("not a list of choices: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return "", errors.New("there is something after the list of choices")
	}
	chosen := ""
	for i, c := range choices {
		if err := c.check(); err != nil {
			return "", fmt.Errorf("choice %d of %d: %w", i+1, len(choices), err)
		}
		if c.matches(dice, hostname) && chosen == "" {
			chosen = string(c.ServiceConfig)
		}
	}
	return chosen, nil
}

func (c *choice) check() error {
	if c.Percentage != nil && (*c.Percentage < 0 || *c.Percentage > 100) {
		return fmt.Errorf("percentage %d is not from 0 to 100", *c.Percentage)
	}
	if !bytes.HasPrefix(c.ServiceConfig, []byte("{")) {
		return errors.New("serviceConfig is missing or no object")
	}
	return nil
}

// matches rolls the dice for each choice that has a percentage, whether it
// matches otherwise or not, so that it falls the same way for the ones behind it.
func (c *choice) matches(dice *rand.Rand, hostname func() (string, error)) bool {
	lucky := c.Percentage == nil || dice.IntN(100) < *c.Percentage
	return lucky && c.forLanguage() && c.forHost(hostname)
}

func (c *choice) forLanguage() bool {
	return len(c.ClientLanguage) == 0 ||
		slices.ContainsFunc(c.ClientLanguage, func(l string) bool { return strings.EqualFold(l, language) })
}

func (c *choice) forHost(hostname func() (string, error)) bool {
	if len(c.ClientHostname) == 0 {
		return true
	}
	name, err := hostname()
	return err == nil && slices.Contains(c.ClientHostname, name)
}
