'use strict';
/**
 * The CoreClaw Worker SDK for Node.js: input, result rows, table header and log of the run this program belongs to.
 *
 *   const { parameter, result, log } = require('./sdk');
 *   const options = await parameter.getInputJSONObject();
 *   await result.setTableHeader([{ label: 'Title', key: 'title', format: 'text' }]);
 *   await result.pushData({ title: 'A row' });
 *   await log.info('done');
 *
 * Every call returns a promise; it rejects when the platform refuses the call.
 */

const grpc = require('@grpc/grpc-js');
const { Empty } = require('google-protobuf/google/protobuf/empty_pb.js');
const { Data, LogBody, TableHeader, TableHeaderItem } = require('./sdk_pb.js');
const { LogClient, ParameterClient, ResultClient } = require('./sdk_grpc_pb.js');

const ADDRESS = '127.0.0.1:20086';
const OPTIONS = { 'grpc.max_receive_message_length': 64 * 1024 * 1024, 'grpc.max_send_message_length': -1 };

const parameterClient = new ParameterClient(ADDRESS, grpc.credentials.createInsecure(), OPTIONS);
const resultClient = new ResultClient(ADDRESS, grpc.credentials.createInsecure(), OPTIONS);
const logClient = new LogClient(ADDRESS, grpc.credentials.createInsecure(), OPTIONS);

function call(client, method, request, describe) {
  return new Promise((resolve, reject) => {
    client[method](request, (error, response) => {
      if (error) reject(error);
      else if (response.getCode() !== 0) reject(new Error(describe(response)));
      else resolve(response);
    });
  });
}

const messageOf = (response) => response.getMessage();

const parameter = {
  /** Return the input object as JSON text. */
  async getInputJSONString() {
    const response = await call(parameterClient, 'getInputJSONString', new Empty(), (r) => `Code: ${r.getCode()}`);
    return response.getJsonstring();
  },

  /** Return the input object, {} when there is none. */
  async getInputJSONObject() {
    return JSON.parse((await parameter.getInputJSONString()) || '{}');
  },
};

const result = {
  /** Name the columns: a list of {label, key, format}; the last call wins, before or after rows. */
  async setTableHeader(headers) {
    const request = new TableHeader();
    for (const header of headers) {
      const item = new TableHeaderItem();
      item.setLabel(String(header.label ?? ''));
      item.setKey(String(header.key ?? ''));
      item.setFormat(String(header.format ?? ''));
      request.addHeaders(item);
    }
    return call(resultClient, 'setTableHeader', request, messageOf);
  },

  /** Append one row. */
  async pushData(obj) {
    const request = new Data();
    request.setJsonstring(JSON.stringify(obj));
    return call(resultClient, 'pushData', request, messageOf);
  },

  /** Append one row, or update the one that was upserted with the same value under uniqueKey. */
  async upsertData(obj, uniqueKey) {
    if (typeof uniqueKey !== 'string' || uniqueKey === '') {
      throw new Error('upsertData needs the name of a unique key');
    }
    if (obj === null || typeof obj !== 'object' || !Object.hasOwn(obj, uniqueKey) || obj[uniqueKey] === undefined) {
      throw new Error(`upsertData: the row has no key '${uniqueKey}'`);
    }
    return result.pushData({
      ...obj,
      __coreclaw_upsert_key__: uniqueKey,
      __coreclaw_upsert_value__: String(obj[uniqueKey]),
    });
  },
};

function write(method) {
  return async (text) => {
    const request = new LogBody();
    request.setLog(String(text));
    return call(logClient, method, request, messageOf);
  };
}

const log = { debug: write('debug'), info: write('info'), warn: write('warn'), error: write('error') };

module.exports = { parameter, result, log, coresdk: { parameter, result, log } };
