package main

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPrints(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, run(&out))
	require.Equal(t, "hello monday.example\nwith the files replaced: hello tuesday.example\n", out.String())
}
