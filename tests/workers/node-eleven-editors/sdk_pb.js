'use strict';
// The messages of coresdk.proto as google-protobuf classes, with the accessors that generated code has.

const jspb = require('google-protobuf');

/** Make a message class from its fields: {name: [number, kind]}, kind is 'int32', 'string' or a repeated message class. */
function define(fields) {
  const repeated = Object.values(fields).filter(([, kind]) => typeof kind === 'function').map(([number]) => number);

  class Message extends jspb.Message {
    constructor(data) {
      super();
      jspb.Message.initialize(this, data, 0, -1, repeated, null);
    }

    serializeBinary() {
      const writer = new jspb.BinaryWriter();
      Message.serializeBinaryToWriter(this, writer);
      return writer.getResultBuffer();
    }

    toObject(includeInstance) {
      return Message.toObject(includeInstance, this);
    }

    static toObject(includeInstance, message) {
      const found = {};
      for (const [name, [number, kind]] of Object.entries(fields)) {
        if (typeof kind === 'function') {
          const list = jspb.Message.getRepeatedWrapperField(message, kind, number);
          found[name + 'List'] = list.map((item) => kind.toObject(includeInstance, item));
        } else {
          found[name.toLowerCase()] = jspb.Message.getFieldWithDefault(message, number, kind === 'int32' ? 0 : '');
        }
      }
      return found;
    }

    static serializeBinaryToWriter(message, writer) {
      for (const [number, kind] of Object.values(fields)) {
        if (typeof kind === 'function') {
          const list = jspb.Message.getRepeatedWrapperField(message, kind, number);
          if (list.length > 0) writer.writeRepeatedMessage(number, list, kind.serializeBinaryToWriter);
        } else if (kind === 'int32') {
          const value = jspb.Message.getFieldWithDefault(message, number, 0);
          if (value !== 0) writer.writeInt32(number, value);
        } else {
          const value = jspb.Message.getFieldWithDefault(message, number, '');
          if (value.length > 0) writer.writeString(number, value);
        }
      }
    }

    static deserializeBinary(bytes) {
      return Message.deserializeBinaryFromReader(new Message(), new jspb.BinaryReader(bytes));
    }

    static deserializeBinaryFromReader(message, reader) {
      const kinds = new Map(Object.values(fields));
      while (reader.nextField() && !reader.isEndGroup()) {
        const number = reader.getFieldNumber();
        const kind = kinds.get(number);
        if (typeof kind === 'function') {
          const item = new kind();
          reader.readMessage(item, kind.deserializeBinaryFromReader);
          jspb.Message.addToRepeatedWrapperField(message, number, item, kind);
        } else if (kind === 'int32') {
          jspb.Message.setProto3IntField(message, number, reader.readInt32());
        } else if (kind === 'string') {
          jspb.Message.setProto3StringField(message, number, reader.readString());
        } else {
          reader.skipField();
        }
      }
      return message;
    }
  }

  for (const [name, [number, kind]] of Object.entries(fields)) {
    // generated accessors write jsonString as Jsonstring
    const accessor = name[0].toUpperCase() + name.slice(1).toLowerCase();
    if (typeof kind === 'function') {
      Message.prototype[`get${accessor}List`] = function () {
        return jspb.Message.getRepeatedWrapperField(this, kind, number);
      };
      Message.prototype[`set${accessor}List`] = function (list) {
        return jspb.Message.setRepeatedWrapperField(this, number, list);
      };
      Message.prototype[`add${accessor}`] = function (item, index) {
        return jspb.Message.addToRepeatedWrapperField(this, number, item, kind, index);
      };
    } else {
      const set = kind === 'int32' ? jspb.Message.setProto3IntField : jspb.Message.setProto3StringField;
      const empty = kind === 'int32' ? 0 : '';
      Message.prototype[`get${accessor}`] = function () {
        return jspb.Message.getFieldWithDefault(this, number, empty);
      };
      Message.prototype[`set${accessor}`] = function (value) {
        return set(this, number, value);
      };
    }
  }
  return Message;
}

const TableHeaderItem = define({ label: [1, 'string'], key: [2, 'string'], format: [3, 'string'] });

module.exports = {
  InputJSONStringResponse: define({ code: [1, 'int32'], jsonString: [2, 'string'] }),
  TableHeader: define({ headers: [1, TableHeaderItem] }),
  TableHeaderItem,
  Data: define({ jsonString: [1, 'string'] }),
  LogBody: define({ log: [1, 'string'] }),
  Response: define({ code: [1, 'int32'], message: [2, 'string'] }),
};
