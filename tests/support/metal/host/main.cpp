// Runs the job in a file: buffers, kernels' libraries, and launches in order. Buffers are parts of one file: in a mapped job that file is their memory; otherwise each
// has memory of its own, so that what lies past its end is found, and goes back to the file in the end.
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "threads.h"

namespace {

struct Buffer {
  size_t offset, bytes;
  char* memory;
};

struct Library {
  standin::Kernel kernel;
  void (*fix)(int number, int value);
};

[[noreturn]] void stop(const std::string& message) {
  fprintf(stderr, "stand-in: %s\n", message.c_str());
  exit(2);
}

char* map_file(const std::string& path, size_t& bytes) {
  const int file = open(path.c_str(), O_RDWR);
  struct stat about;
  if (file < 0 || fstat(file, &about) != 0) stop("cannot open " + path);
  bytes = size_t(about.st_size);
  void* at = mmap(nullptr, bytes > 0 ? bytes : 1, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (at == MAP_FAILED) stop("cannot map " + path);
  return (char*)at;
}

Library load(const std::string& path) {
  void* at = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!at) stop(dlerror());
  return {(standin::Kernel)dlsym(at, "standin_thread"), (void (*)(int, int))dlsym(at, "standin_fix")};
}

template <class T>
std::vector<T> list(std::istream& in) {
  size_t count = 0;
  in >> count;
  std::vector<T> values(count);
  for (T& v : values) in >> v;
  return values;
}

}

int main(int, char** argv) {
  std::ifstream job(argv[1]);
  std::string word, path;
  size_t bytes = 0;
  char* file = nullptr;
  bool mapped = false;
  unsigned order = 0;
  std::vector<Buffer> buffers;
  std::vector<Library> libraries;
  while (job >> word) {
    if (word == "memory" || word == "mapped") {
      job >> path;
      file = map_file(path, bytes);
      mapped = word == "mapped";
    } else if (word == "order") {
      job >> order;
    } else if (word == "buffer") {
      Buffer b{};
      job >> b.offset >> b.bytes;
      if (b.offset + b.bytes > bytes) stop("a buffer lies past the end of " + path);
      b.memory = mapped ? file + b.offset : (char*)malloc(b.bytes);
      if (!mapped) memcpy(b.memory, file + b.offset, b.bytes);
      buffers.push_back(b);
    } else if (word == "library") {
      job >> path;
      libraries.push_back(load(path));
    } else if (word == "run") {
      size_t library = 0;
      standin::Launch launch{};
      job >> library >> launch.threads >> launch.grid[0] >> launch.grid[1] >> launch.grid[2];
      launch.arrays = list<size_t>(job);
      const std::vector<int> constants = list<int>(job);
      const std::vector<size_t> args = list<size_t>(job);
      std::vector<int> symbols = list<int>(job);
      for (size_t i = 0; i + 1 < constants.size(); i += 2) libraries.at(library).fix(constants[i], constants[i + 1]);
      std::vector<void*> pointers;
      for (size_t i = 0; i + 1 < args.size(); i += 2) pointers.push_back(buffers.at(args[i]).memory + args[i + 1]);
      pointers.push_back(symbols.data());
      launch.kernel = libraries.at(library).kernel;
      launch.buffers = pointers.data();
      launch.order = order;
      standin::run(launch);
    } else {
      stop("what is " + word);
    }
  }
  if (!mapped)
    for (const Buffer& b : buffers) memcpy(file + b.offset, b.memory, b.bytes);
  return 0;
}
