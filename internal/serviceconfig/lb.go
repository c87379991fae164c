package serviceconfig

import (
	"encoding/json"
	"fmt"

	"google.golang.org/grpc/balancer"
)

// parseLB reads loadBalancingConfig, and if there is none, loadBalancingPolicy. A
// nil policy means that the config chooses none; unknown is then the legacy name
// that is not registered, if there is one.
func parseLB(list, legacy json.RawMessage) (lb *LBPolicy, unknown string, err error) {
	// The type of the legacy field is checked even if it does not count.
	name, err := readString("loadBalancingPolicy", legacy)
	if err != nil {
		return nil, "", err
	}
	if !absent(list) {
		lb, err = choosePolicy(list)
		return lb, "", err
	}
	if absent(legacy) {
		return nil, "", nil
	}
	return legacyPolicy("loadBalancingPolicy", name)
}

// choosePolicy takes the first policy of loadBalancingConfig that is registered
// (gRFC A24). Entries behind it must be objects and are not looked at further, as
// they may be for later versions.
func choosePolicy(raw json.RawMessage) (*LBPolicy, error) {
	const field = "loadBalancingConfig"
	list, entries, err := readPolicies(raw)
	if err != nil {
		return nil, err
	}
	for i, entry := range list {
		if len(entry) != 1 {
			return nil, wrong(fmt.Sprintf("%s[%d]", field, i), entries[i], wantPolicy)
		}
		for name, config := range entry {
			builder := balancer.Get(name)
			if builder == nil {
				continue
			}
			return newPolicy(fmt.Sprintf("%s[%d].%s", field, i, name), builder, config)
		}
	}
	return nil, wrong(field, raw, "a policy that is registered: pick_first, round_robin, or one whose package is imported")
}

// readPolicies decodes loadBalancingConfig, and returns its elements as they stand too. raw
// may be absent: no elements.
func readPolicies(raw json.RawMessage) (list []map[string]json.RawMessage, elements []json.RawMessage, err error) {
	const field = "loadBalancingConfig"
	if elements, err = readList(field, raw); err != nil {
		return nil, nil, err
	}
	list = make([]map[string]json.RawMessage, len(elements))
	for i, element := range elements {
		if json.Unmarshal(element, &list[i]) != nil {
			return nil, nil, wrong(fmt.Sprintf("%s[%d]", field, i), element, wantPolicy)
		}
	}
	return list, elements, nil
}

const wantPolicy = `an object with one key, a policy's name, such as {"round_robin":{}}`

// legacyPolicy takes the policy called name with an empty config, the meaning of
// loadBalancingPolicy. One that is not registered is no error: gRPC then uses its
// default.
func legacyPolicy(field, name string) (lb *LBPolicy, unknown string, err error) {
	builder := balancer.Get(name)
	if builder == nil {
		return nil, name, nil
	}
	lb, err = newPolicy(field, builder, json.RawMessage("{}"))
	return lb, "", err
}

// newPolicy has the builder parse its config if it can, and drops the config
// otherwise.
func newPolicy(field string, builder balancer.Builder, config json.RawMessage) (*LBPolicy, error) {
	lb := &LBPolicy{Name: builder.Name(), Builder: builder}
	parser, ok := builder.(balancer.ConfigParser)
	if !ok {
		return lb, nil
	}
	var err error
	if lb.Config, err = parser.ParseConfig(config); err != nil {
		return nil, &Error{Field: field, Value: quoted(config), Err: err}
	}
	return lb, nil
}
