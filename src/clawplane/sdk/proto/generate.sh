#!/bin/sh
# Generate the SDK files that are checked in from the two .proto files here. Run it from anywhere.
#
# Python: grpcio-tools 1.80.0 generates for protobuf >= 6.31.1 and grpcio >= 1.80.0, what Workers in the field use.
# Go: Debian's protobuf-compiler, protoc-gen-go-1-5 and protoc-gen-go-grpc generate for every grpc-go from 1.33 on.
# Node: sdk_pb.js and sdk_grpc_pb.js are written by hand; the generator for JavaScript is no longer part of protoc.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
templates=$here/../templates
root=$here/../../../..
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

uv venv -q "$scratch/venv"
uv pip install -q --python "$scratch/venv/bin/python" grpcio-tools==1.80.0

generate_python() { # package, target directory
    cp "$here/$1.proto" "$scratch/sdk.proto" # the files are called sdk_pb2.py and sdk_pb2_grpc.py
    "$scratch/venv/bin/python" -m grpc_tools.protoc -I"$scratch" --python_out="$2" --grpc_python_out="$2" sdk.proto
}

generate_python coresdk "$templates/python"
cp "$templates/python"/sdk_pb2*.py "$root/examples/python-library-survey/"
generate_python cafesdk "$root/tests/workers/python-split-by-b"

cp "$here/coresdk.proto" "$scratch/sdk.proto"
protoc -I"$scratch" --go_out="$templates/go/GoSdk" --go-grpc_out="$templates/go/GoSdk" sdk.proto \
    --proto_path=/usr/include
for copy in "$root/examples/go-licence-survey" "$root/tests/workers/go-source"; do
    cp "$templates/go/GoSdk"/sdk*.pb.go "$copy/GoSdk/"
done
