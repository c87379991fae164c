// Package pb is generated from greeter.proto. To generate it again protoc must
// be installed; its plugins are pinned in the tools module.
package pb

// The paths start at the module's root, so that the name under which the file
// is registered with protobuf is unique in any program.
//go:generate protoc -I ../../.. --plugin=../../../tools/protoc-gen-go --plugin=../../../tools/protoc-gen-go-grpc --go_out=../../.. --go_opt=paths=source_relative --go-grpc_out=../../.. --go-grpc_opt=paths=source_relative examples/greeter/pb/greeter.proto
