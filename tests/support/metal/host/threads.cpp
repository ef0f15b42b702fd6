// Runs threadgroups, one after the other, on fibres. Threads go on until they have to meet others; whoever comes last lets all of them go on. Meetings are told apart
// by their line, and a meeting that not everybody comes to is reported. Built without sanitizers: they are told of fibres and of what orders memory.
#include "threads.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <tuple>

#ifdef STANDIN_TSAN
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned);
void __tsan_destroy_fiber(void*);
void __tsan_switch_to_fiber(void*, unsigned);
void __tsan_acquire(void*);
void __tsan_release(void*);
}
#endif
#ifdef STANDIN_ASAN
extern "C" {
void __sanitizer_start_switch_fiber(void**, const void*, size_t);
void __sanitizer_finish_switch_fiber(void*, const void**, size_t*);
}
#endif

// Registers that a function has to keep go to the stack that is left, and come from the one that is entered.
extern "C" void standin_switch(void** left, void* entered);
asm(R"(
.text
.globl standin_switch
.type standin_switch, @function
standin_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");

namespace standin {
namespace {

constexpr unsigned LANES = 32;
constexpr size_t STACK = 512 << 10;
constexpr size_t MOST_BYTES = 32 << 10;
constexpr unsigned MOST_THREADS = 1024;

std::vector<Thread> threads;
// Who is asked after whom.
std::vector<unsigned> next;
unsigned current = 0, live = 0, waiting = 0;
const Launch* launch = nullptr;
unsigned group[3];
std::vector<void*> arrays;
std::vector<void*> old_arrays;
Thread host;
// What orders the memory of those who meet; every other meeting has the same.
char group_order[2];
std::vector<char> simd_order;
char ended;

#ifdef STANDIN_TSAN
void acquire(char& at) { __tsan_acquire(&at); }
void release(char& at) { __tsan_release(&at); }
#else
void acquire(char&) {}
void release(char&) {}
#endif

void enter(Thread& from, Thread& to, bool forever) {
#ifdef STANDIN_TSAN
  __tsan_switch_to_fiber(to.tsan, 1);
#endif
#ifdef STANDIN_ASAN
  __sanitizer_start_switch_fiber(forever ? nullptr : &from.asan, to.stack, to.stack_bytes);
#endif
  (void)forever;
  standin_switch(&from.stack_pointer, to.stack_pointer);
#ifdef STANDIN_ASAN
  __sanitizer_finish_switch_fiber(from.asan, nullptr, nullptr);
#endif
}

[[noreturn]] void report(const std::string& message) {
  fprintf(stderr, "stand-in: %s\n", message.c_str());
  std::map<std::tuple<State, int, std::string>, int> places;
  for (const Thread& t : threads) places[{t.state, t.line, t.what ? t.what : ""}]++;
  for (const auto& [place, count] : places) {
    const auto& [state, line, what] = place;
    if (state == State::done) fprintf(stderr, "  %d threads have returned\n", count);
    else if (state == State::ready) fprintf(stderr, "  %d threads can go on\n", count);
    else fprintf(stderr, "  %d threads wait in %s at line %d\n", count, what.c_str(), line);
  }
  fflush(stderr);
  _exit(3);
}

// Lets the next thread run that can. The one that calls goes on when it is ready and its turn comes.
void give_way() {
  const unsigned me = current;
  unsigned i = me;
  do {
    i = next[i];
    if (threads[i].state == State::ready) {
      if (i == me) return;
      current = i;
      enter(threads[me], threads[i], threads[me].state == State::done);
      return;
    }
  } while (i != me);
  if (live == 0) enter(threads[me], host, true);
  report("threads of one group wait at different places");
}

void wait_in(Thread& t, State state, const char* what, int line) {
  t.state = state;
  t.what = what;
  t.line = line;
}

void let_group_go() {
  const Thread& me = threads[current];
  if (live < threads.size()) report("a threadgroup_barrier that some threads have returned before");
  for (const Thread& t : threads)
    if (t.line != me.line) report("threads of one group are at different barriers");
  for (Thread& t : threads) t.state = State::ready;
  waiting = 0;
}

void thread_main() {
#ifdef STANDIN_ASAN
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
  launch->kernel(launch->buffers, group, current);
  release(ended);
  threads[current].state = State::done;
  live--;
  if (live > 0 && waiting == live) report("a threadgroup_barrier that some threads have returned before");
  give_way();
  abort();
}

void* fresh_stack() {
  void* stack = mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (stack == MAP_FAILED) report("there is no memory for a stack");
  return stack;
}

// To ThreadSanitizer, threads of different groups have nothing to do with each other, so they must not find each other's stacks either.
#ifdef STANDIN_TSAN
constexpr bool KEEPS_STACKS = false;
#else
constexpr bool KEEPS_STACKS = true;
#endif

void prepare(Thread& t) {
  Thread fresh;
  fresh.stack = KEEPS_STACKS && t.stack ? t.stack : fresh_stack();
  fresh.stack_bytes = STACK;
  t = fresh;
  // What the switch takes from a stack: six registers, and where to go on. A function is entered with its stack 8 bytes past a multiple of 16.
  void** top = (void**)((char*)t.stack + STACK - 64);
  *--top = nullptr;
  *--top = (void*)thread_main;
  for (int i = 0; i < 6; i++) *--top = nullptr;
  t.stack_pointer = top;
#ifdef STANDIN_TSAN
  t.tsan = __tsan_create_fiber(0);
#endif
}

void run_group() {
  arrays.clear();
  for (size_t bytes : launch->arrays) {
    arrays.push_back(malloc(bytes));
    memset(arrays.back(), 0xff, bytes);
  }
  for (Thread& t : threads) prepare(t);
  live = unsigned(threads.size());
  waiting = 0;
  current = next[threads.size() - 1];
  enter(host, threads[current], false);
#ifdef STANDIN_TSAN
  for (Thread& t : threads) {
    __tsan_destroy_fiber(t.tsan);
    munmap(t.stack, STACK);
  }
#endif
  old_arrays.insert(old_arrays.end(), arrays.begin(), arrays.end());
  // those that the sanitizer knows accesses to are freed when all groups are over, which orders them
  if (KEEPS_STACKS || old_arrays.size() > 4096) {
    acquire(ended);
    for (void* a : old_arrays) free(a);
    old_arrays.clear();
  }
}

}

void run(const Launch& l) {
  launch = &l;
  if (l.threads == 0 || l.threads > MOST_THREADS || l.threads % LANES != 0) report("a group of " + std::to_string(l.threads) + " threads");
  size_t bytes = 0;
  for (size_t b : l.arrays) bytes += b;
  if (bytes > MOST_BYTES) report(std::to_string(bytes) + " bytes of threadgroup memory");
  while (threads.size() > l.threads) {
    if (threads.back().stack && KEEPS_STACKS) munmap(threads.back().stack, STACK);
    threads.pop_back();
  }
  threads.resize(l.threads);
  simd_order.assign(2 * l.threads / LANES, 0);
#ifdef STANDIN_TSAN
  host.tsan = __tsan_get_current_fiber();
#endif
  pthread_attr_t about;
  pthread_getattr_np(pthread_self(), &about);
  pthread_attr_getstack(&about, &host.stack, &host.stack_bytes);
  pthread_attr_destroy(&about);
  std::vector<unsigned> order(l.threads);
  for (unsigned i = 0; i < l.threads; i++) order[i] = i;
  std::mt19937 random(l.order);
  if (l.order == 1) std::reverse(order.begin(), order.end());
  for (group[2] = 0; group[2] < l.grid[2]; group[2]++)
    for (group[1] = 0; group[1] < l.grid[1]; group[1]++)
      for (group[0] = 0; group[0] < l.grid[0]; group[0]++) {
        if (l.order > 1) std::shuffle(order.begin(), order.end(), random);
        next.assign(l.threads, 0);
        for (unsigned i = 0; i < l.threads; i++) next[order[i]] = order[(i + 1) % l.threads];
        run_group();
      }
  acquire(ended);
  for (void* a : old_arrays) free(a);
  old_arrays.clear();
}

// ---- what kernels call (include/standin/simd.h, types.h) ----------------------------------------------------------------

unsigned lane() { return current % LANES; }
void* array(unsigned long index) { return arrays[index]; }
[[noreturn]] void fail(const char* what, int line) { report(std::string(what) + " at line " + std::to_string(line) + " with different arguments"); }

void meet(void* mine, void (*combine)(void* const* lanes), const char* what, int line) {
  const unsigned first = current / LANES * LANES;
  threads[current].slot = mine;
  wait_in(threads[current], State::simdgroup, what, line);
  void* slots[LANES];
  for (unsigned i = 0; i < LANES; i++) {
    const Thread& t = threads[first + i];
    if (t.state == State::done) report(std::string(what) + " that some lanes have returned before");
    if (t.state != State::simdgroup) return give_way();
    if (t.line != line || strcmp(t.what, what) != 0) report("lanes of one simdgroup are at different operations");
    slots[i] = t.slot;
  }
  if (combine) combine(slots);
  for (unsigned i = 0; i < LANES; i++) threads[first + i].state = State::ready;
}

void simdgroup_meets(bool memory, int line) {
  char& order = simd_order[current / LANES * 2 + threads[current].simd_meetings++ % 2];
  if (memory) release(order);
  meet(nullptr, nullptr, "simdgroup_barrier", line);
  if (memory) acquire(order);
}

void threadgroup_meets(bool memory, int line) {
  Thread& me = threads[current];
  char& order = group_order[me.group_meetings++ % 2];
  if (memory) release(order);
  wait_in(me, State::threadgroup, "threadgroup_barrier", line);
  if (++waiting == live) let_group_go();
  else give_way();
  if (memory) acquire(order);
}

}
