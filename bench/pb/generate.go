// Package pb is generated from bench.proto. To generate it again protoc must be
// installed; its plugins are pinned in the tools module.
package pb

//go:generate protoc -I ../.. --plugin=../../tools/protoc-gen-go --plugin=../../tools/protoc-gen-go-grpc --go_out=../.. --go_opt=paths=source_relative --go-grpc_out=../.. --go-grpc_opt=paths=source_relative bench/pb/bench.proto
