// A compiled model on a GPU, as an app would run it: a pipeline for each kernel, a buffer for each name, and one command buffer for a program.

import Foundation
import Metal

/// The kernels of an artifact. They are linked into one library (verify-on-mac.sh), which an app would carry.
final class Kernels {
  let device: MTLDevice
  private let library: MTLLibrary

  init(device: MTLDevice, library: URL) throws {
    self.device = device
    self.library = try device.makeLibrary(URL: library)
  }

  /// `fixed`: symbols that this pipeline has for good, by their number; branches on them are then decided as it is made.
  func pipeline(_ entry: String, threads: Int, fixed: [Int: Int32] = [:]) throws -> MTLComputePipelineState {
    let constants = MTLFunctionConstantValues()
    for (index, value) in fixed {
      var value = value
      constants.setConstantValue(&value, type: .int, index: index)
    }
    let function = try library.makeFunction(name: entry, constantValues: constants)
    let pipeline = try device.makeComputePipelineState(function: function)
    if pipeline.maxTotalThreadsPerThreadgroup < threads {
      throw Failure("\(entry) can have \(pipeline.maxTotalThreadsPerThreadgroup) threads on \(device.name), it was compiled for \(threads)")
    }
    if pipeline.threadExecutionWidth != 32 { throw Failure("\(device.name) has simdgroups of \(pipeline.threadExecutionWidth)") }
    return pipeline
  }
}

extension MTLDevice {
  /// Memory that the host sees too, full of zeros.
  func zeroed(_ bytes: Int) throws -> MTLBuffer {
    guard let buffer = makeBuffer(length: max(bytes, 16), options: .storageModeShared) else {
      throw Failure("\(name) has no room for \(bytes) bytes")
    }
    memset(buffer.contents(), 0, buffer.length)
    return buffer
  }
}

final class Model {
  let manifest: Manifest
  private let queue: MTLCommandQueue
  private let pipelines: [MTLComputePipelineState]
  private var buffers: [String: MTLBuffer] = [:]
  private var arenas: [MTLBuffer] = []

  /// `fixed`: values of symbols that no run will change.
  init(folder: URL, checkpoint: Checkpoint, device: MTLDevice, fixed: [String: Int32] = [:]) throws {
    let manifest = try readJson(Manifest.self, folder.appendingPathComponent("manifest.json"))
    self.manifest = manifest
    if manifest.target.backend != "metal" { throw Failure("\(folder.path) is for \(manifest.target.backend)") }
    guard let queue = device.makeCommandQueue() else { throw Failure("\(device.name) gives no command queue") }
    self.queue = queue
    let kernels = try Kernels(device: device, library: folder.appendingPathComponent("build/kernels.metallib"))
    pipelines = try manifest.kernels.map { kernel in
      var constants: [Int: Int32] = [:]
      for (i, symbol) in kernel.symbols.enumerated() {
        if let value = fixed[symbol] { constants[i] = value }
      }
      return try kernels.pipeline(kernel.entry, threads: kernel.threads, fixed: constants)
    }

    for weight in manifest.weights {
      let buffer = try device.zeroed(weight.bytes)
      var offset = 0
      for part in weight.parts {
        let data = try checkpoint.bytes(part.tensor, as: weight.dtype)
        if offset + data.count > weight.bytes { throw Failure("\(weight.name) is larger in the checkpoint than the model was compiled for") }
        data.withUnsafeBytes { _ = memcpy(buffer.contents() + offset, $0.baseAddress!, data.count) }
        offset += data.count
      }
      buffers["weight \(weight.name)"] = buffer
    }
    let literals = try Data(contentsOf: folder.appendingPathComponent("literals.bin"))
    for literal in manifest.literals {
      let buffer = try device.zeroed(literal.bytes)
      let data = literals.subdata(in: literal.offset..<(literal.offset + literal.bytes))
      data.withUnsafeBytes { _ = memcpy(buffer.contents(), $0.baseAddress!, data.count) }
      buffers["literal \(literal.name)"] = buffer
    }
    for state in manifest.states { buffers["state \(state.name)"] = try device.zeroed(state.bytes) }
    // inputs and outputs belong to their names, whatever program they are of
    for tensor in manifest.programs.flatMap({ $0.inputs + $0.outputs }) {
      let key = "io \(tensor.name)"
      if (buffers[key]?.length ?? 0) < tensor.bytes { buffers[key] = try device.zeroed(tensor.bytes) }
    }
    let count = manifest.programs.map { $0.arenas.count }.max() ?? 0
    for i in 0..<count {
      let bytes = manifest.programs.map { i < $0.arenas.count ? $0.arenas[i] : 0 }.max() ?? 0
      arenas.append(try device.zeroed(bytes))
    }
  }

  /// The memory of an input or an output.
  func tensor<T>(_ name: String, _ type: T.Type) throws -> UnsafeMutablePointer<T> {
    guard let buffer = buffers["io \(name)"] else { throw Failure("no program has an input or output \(name)") }
    return buffer.contents().assumingMemoryBound(to: type)
  }

  private func place(_ ref: BufferRef) throws -> (MTLBuffer, Int) {
    if let arena = ref.arena { return (arenas[arena], ref.offset ?? 0) }
    let kind = ref.kind == "input" || ref.kind == "output" ? "io" : ref.kind
    guard let name = ref.name, let buffer = buffers["\(kind) \(name)"] else { throw Failure("there is no \(ref.kind) \(ref.name ?? "")") }
    return (buffer, 0)
  }

  /// Runs a program once: one command buffer, whose dispatches see what the ones before them wrote.
  func run(_ name: String, symbols: [String: Int]) throws {
    guard let program = manifest.programs.first(where: { $0.name == name }) else { throw Failure("there is no program \(name)") }
    guard let commands = queue.makeCommandBuffer(), let encoder = commands.makeComputeCommandEncoder() else {
      throw Failure("the queue gives no command buffer")
    }
    for step in program.steps {
      let kernel = manifest.kernels[step.kernel]
      let grid = try step.grid.map { try $0.value(symbols) }
      if grid.contains(0) { continue }
      encoder.setComputePipelineState(pipelines[step.kernel])
      for (i, ref) in step.args.enumerated() {
        let (buffer, offset) = try place(ref)
        encoder.setBuffer(buffer, offset: offset, index: i)
      }
      if !kernel.symbols.isEmpty {
        let values = try kernel.symbols.map { (symbol: String) throws -> Int32 in
          guard let value = symbols[symbol] else { throw Failure("\(name): \(kernel.entry) needs a value of \(symbol)") }
          return Int32(value)
        }
        encoder.setBytes(values, length: 4 * values.count, index: step.args.count)
      }
      encoder.dispatchThreadgroups(
        MTLSize(width: grid[0], height: grid[1], depth: grid[2]),
        threadsPerThreadgroup: MTLSize(width: kernel.threads, height: 1, depth: 1))
    }
    encoder.endEncoding()
    commands.commit()
    commands.waitUntilCompleted()
    if let error = commands.error { throw Failure("\(name): \(error)") }
  }

  /// The likeliest tokens after a prompt, one at a time.
  func generate(prompt: [Int32], count: Int, each: (Int32) -> Void) throws {
    let ids = try tensor("input_ids", Int32.self)
    let positions = try tensor("position_ids", Int32.self)
    let sequences = try tensor("sequence_ids", Int32.self)
    let next = try tensor("argmax", Int32.self)
    var past = 0
    func take(_ token: Int32) throws {
      ids[0] = token
      positions[0] = Int32(past)
      sequences[past] = 1
      try run("decode.1", symbols: ["batch": 1, "seq": 1, "past": past, "kept": 1, "with_logits": 0])
      past += 1
    }
    for token in prompt { try take(token) }
    for i in 0..<count {
      let token = next[0]
      each(token)
      if i + 1 < count { try take(token) }
    }
  }
}
