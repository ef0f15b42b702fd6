// While anything of Dawn is awaited, its module for Node asks after it in a loop over the global setImmediate, which keeps a processor busy: here the one
// that Mesa compiles the kernels on. Once a millisecond is soon enough for tests.
globalThis.setImmediate = ((call: (...args: unknown[]) => void, ...args: unknown[]) =>
  setTimeout(call, 1, ...args)) as unknown as typeof setImmediate;
