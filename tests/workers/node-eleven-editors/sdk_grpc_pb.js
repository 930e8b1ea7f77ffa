'use strict';
// The services of coresdk.proto as @grpc/grpc-js clients.

const grpc = require('@grpc/grpc-js');
const { Empty } = require('google-protobuf/google/protobuf/empty_pb.js');
const messages = require('./sdk_pb.js');

function method(service, name, request, response) {
  return {
    path: `/coresdk.${service}/${name}`,
    requestStream: false,
    responseStream: false,
    requestType: request,
    responseType: response,
    requestSerialize: (message) => Buffer.from(message.serializeBinary()),
    requestDeserialize: (bytes) => request.deserializeBinary(new Uint8Array(bytes)),
    responseSerialize: (message) => Buffer.from(message.serializeBinary()),
    responseDeserialize: (bytes) => response.deserializeBinary(new Uint8Array(bytes)),
  };
}

const { Data, InputJSONStringResponse, LogBody, Response, TableHeader } = messages;

const ParameterService = {
  getInputJSONString: method('Parameter', 'GetInputJSONString', Empty, InputJSONStringResponse),
};
const ResultService = {
  setTableHeader: method('Result', 'SetTableHeader', TableHeader, Response),
  pushData: method('Result', 'PushData', Data, Response),
};
const LogService = {
  debug: method('Log', 'Debug', LogBody, Response),
  info: method('Log', 'Info', LogBody, Response),
  warn: method('Log', 'Warn', LogBody, Response),
  error: method('Log', 'Error', LogBody, Response),
};

module.exports = {
  ParameterService,
  ParameterClient: grpc.makeGenericClientConstructor(ParameterService, 'Parameter'),
  ResultService,
  ResultClient: grpc.makeGenericClientConstructor(ResultService, 'Result'),
  LogService,
  LogClient: grpc.makeGenericClientConstructor(LogService, 'Log'),
};
