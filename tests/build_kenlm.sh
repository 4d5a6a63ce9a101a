#!/usr/bin/env bash
# KenLM from source, into the active environment: the package `kenlm`, and `build_binary`, which the package leaves out.
# With both the tests compare n-gram scores with KenLM's and read its binary files; without, they say that they skip.
#
#     bash tests/build_kenlm.sh        # needs g++, CMake and the headers of zlib and bzip2; takes a minute
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

pip install --quiet setuptools wheel
pip download --quiet --no-deps --no-build-isolation --no-binary kenlm -c "$here/constraints.txt" kenlm
tar xf kenlm-*.tar.gz
cd kenlm-*/
pip install --quiet --no-deps --no-build-isolation .

sources=$(ls util/double-conversion/*.cc util/*.cc lm/*.cc | grep -v -e 'main\.cc$' -e 'test\.cc$')
# shellcheck disable=SC2086
g++ -std=c++11 -O1 -w -DNDEBUG -DKENLM_MAX_ORDER=6 -DHAVE_ZLIB -DHAVE_BZLIB -I. $sources lm/build_binary_main.cc \
    -lz -lbz2 -lpthread -o "$(dirname "$(command -v python)")/build_binary"
