// The interoperability service of gRPC's interop-test-descriptions.md on
// @grpc/grpc-js, once in the clear and once over TLS.
//
//	node server.js descriptors certificate key
//
// descriptors is a FileDescriptorSet with grpc.testing.TestService. The server
// prints its two ports and serves until its standard input ends.

"use strict";

const fs = require("fs");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [descriptors, certificate, key] = process.argv.slice(2).map((path) => fs.readFileSync(path));
const { grpc: { testing } } = grpc.loadPackageDefinition(
  loader.loadFileDescriptorSetFromBuffer(descriptors, { keepCase: true, longs: Number, enums: String, defaults: true }));

const initialKey = "x-grpc-test-echo-initial";
const trailingKey = "x-grpc-test-echo-trailing-bin";

const payload = (size) => ({ type: "COMPRESSABLE", body: Buffer.alloc(size) });

// echoMetadata sends what the client wants to have back.
function echoMetadata(call) {
  const initial = new grpc.Metadata(), trailing = new grpc.Metadata();
  call.metadata.get(initialKey).forEach((value) => initial.add(initialKey, value));
  call.metadata.get(trailingKey).forEach((value) => trailing.add(trailingKey, value));
  call.sendMetadata(initial);
  return trailing;
}

const asked = (status) => status && status.code ? { code: status.code, details: status.message } : null;

function unaryCall(call, done) {
  const trailing = echoMetadata(call);
  const failure = asked(call.request.response_status);
  if (failure) {
    done({ ...failure, metadata: trailing });
    return;
  }
  done(null, { payload: payload(call.request.response_size) }, trailing);
}

function streamingInputCall(call, done) {
  let sum = 0;
  call.on("data", (request) => { sum += request.payload.body.length; });
  call.on("end", () => done(null, { aggregated_payload_size: sum }));
}

function streamingOutputCall(call) {
  for (const parameters of call.request.response_parameters) {
    call.write({ payload: payload(parameters.size) });
  }
  call.end();
}

function fullDuplexCall(call) {
  const trailing = echoMetadata(call);
  call.on("data", (request) => {
    const failure = asked(request.response_status);
    if (failure) {
      call.emit("error", { ...failure, metadata: trailing });
      return;
    }
    for (const parameters of request.response_parameters) {
      call.write({ payload: payload(parameters.size) });
    }
  });
  call.on("end", () => call.end(trailing));
}

function start(credentials) {
  const server = new grpc.Server();
  server.addService(testing.TestService.service, {
    EmptyCall: (call, done) => done(null, {}),
    UnaryCall: unaryCall,
    StreamingInputCall: streamingInputCall,
    StreamingOutputCall: streamingOutputCall,
    FullDuplexCall: fullDuplexCall,
  });
  return new Promise((resolve, reject) => {
    server.bindAsync("127.0.0.1:0", credentials, (err, port) => err ? reject(err) : resolve(port));
  });
}

async function main() {
  const plain = await start(grpc.ServerCredentials.createInsecure());
  const secure = await start(grpc.ServerCredentials.createSsl(null, [{ private_key: key, cert_chain: certificate }]));
  console.log(`${plain} ${secure}`);
  process.stdin.resume().on("end", () => process.exit(0));
}

main();
