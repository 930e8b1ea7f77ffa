#!/bin/sh
# Make sure that the programs which only the tests use are there.
set -eu
cd "$(dirname "$0")/.."
. scripts/apt.sh

missing=
command -v node >/dev/null 2>&1 || missing="$missing nodejs"
command -v npm >/dev/null 2>&1 || missing="$missing npm"
if ! command -v go >/dev/null 2>&1 || ! [ -d /usr/share/gocode/src/google.golang.org/grpc ]; then
    missing="$missing golang-go golang-google-grpc-dev golang-google-protobuf-dev golang-github-golang-protobuf-1-5-dev"
fi
# shellcheck disable=SC2086
[ -z "$missing" ] || need "The test suite" $missing
