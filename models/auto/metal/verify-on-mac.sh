#!/bin/sh
# Compiles the kernels of this folder with Apple's compiler, warnings being errors, and the host in Swift; then runs every kernel on its stored case on this Mac's
# GPU, compares what comes of it, and prints a table. Needs Xcode with its command line tools.
#
# NOT RUN BY US: neither the kernels nor the host have been seen by Apple's compilers, and nothing here has run on an Apple GPU. On Linux, clang has compiled
# every kernel's text as C++14 with address spaces and as C++ for OpenCL, and kernels have run on a CPU with checks for races, bounds and undefined behaviour,
# through a stand-in for Metal's headers. This script is what is missing; please report what it says.
set -eu
cd "$(dirname "$0")"
mkdir -p build
failed=0
for file in kernels/*.metal; do
  air="build/$(basename "$file" .metal).air"
  if ! xcrun -sdk macosx metal -std=metal@LANGUAGE@ -Werror -fno-fast-math -c "$file" -o "$air"; then
    echo "$file does not compile"
    failed=$((failed + 1))
  fi
done
if [ "$failed" -gt 0 ]; then
  echo "$failed kernels do not compile"
  exit 1
fi
xcrun -sdk macosx metallib build/*.air -o build/kernels.metallib
xcrun -sdk macosx swiftc -O host/*.swift -o build/culm-metal
exec build/culm-metal verify .
