// Runs every kernel of an artifact on its stored case, and compares what comes of it with what the compiler's emulator computed.

import Foundation
import Metal

struct KernelCase: Decodable {
  struct Buffer: Decodable {
    let dtype: String
    let elements: Int
    let seed: Int
  }
  struct Expected: Decodable {
    let buffer: Int
    /// Of expected.bin: `count` numbers of elements, then as many values.
    let offset: Int
    let count: Int
    let tolerance: Float
  }
  let entry: String
  let label: String
  let threads: Int
  let grid: [Int]
  let symbols: [Int32]
  let buffers: [Buffer]
  let expected: [Expected]
  let skipped: String?
}

struct Cases: Decodable { let cases: [KernelCase] }

/// Element i of an input is a function of its seed and of i modulo this.
let period = 1_048_573

func hash(_ i: Int, _ seed: Int) -> UInt32 {
  var h = (UInt32(truncatingIfNeeded: i) ^ UInt32(truncatingIfNeeded: seed)) &* 0x9e37_79b1
  h ^= h >> 15
  h = h &* 0x85eb_ca6b
  h ^= h >> 13
  h = h &* 0xc2b2_ae35
  return h ^ (h >> 16)
}

func size(_ dtype: String) -> Int { ["f32": 4, "i32": 4, "f16": 2, "bf16": 2, "bool": 1][dtype] ?? 0 }

/// Numbers in [-1, 1) of as many bits as the type holds; 1 for integers.
func fill(_ memory: UnsafeMutableRawPointer, _ buffer: KernelCase.Buffer) {
  let own = min(buffer.elements, period)
  for i in 0..<own {
    let h = hash(i, buffer.seed)
    switch buffer.dtype {
    case "f32": memory.storeBytes(of: Float(h >> 8) / 8_388_608 - 1, toByteOffset: 4 * i, as: Float.self)
    case "i32": memory.storeBytes(of: 1, toByteOffset: 4 * i, as: Int32.self)
    case "bf16":
      let bits = (Float(h >> 24) / 128 - 1).bitPattern
      memory.storeBytes(of: UInt16(bits >> 16), toByteOffset: 2 * i, as: UInt16.self)
    case "f16": memory.storeBytes(of: half(Float(h >> 21) / 1024 - 1), toByteOffset: 2 * i, as: UInt16.self)
    default: memory.storeBytes(of: UInt8(h & 1), toByteOffset: i, as: UInt8.self)
    }
  }
  let bytes = size(buffer.dtype)
  var filled = own
  while filled < buffer.elements {
    let count = min(filled - filled % period, buffer.elements - filled)
    memcpy(memory + bytes * filled, memory, bytes * count)
    filled += count
  }
}

/// The bits of a multiple of 2^-10 in [-1, 1] as a half, exactly.
func half(_ x: Float) -> UInt16 {
  if x == 0 { return 0 }
  let bits = x.bitPattern
  let sign = (bits >> 16) & 0x8000
  let magnitude = ((bits >> 13) & 0x3ffff) - (112 << 10)
  return UInt16(sign | magnitude)
}

func value(_ memory: UnsafeMutableRawPointer, _ dtype: String, _ i: Int) -> Float {
  switch dtype {
  case "f32": return memory.load(fromByteOffset: 4 * i, as: Float.self)
  case "i32": return Float(memory.load(fromByteOffset: 4 * i, as: Int32.self))
  case "bf16": return Float(bitPattern: UInt32(memory.load(fromByteOffset: 2 * i, as: UInt16.self)) << 16)
  case "f16":
    let bits = UInt32(memory.load(fromByteOffset: 2 * i, as: UInt16.self))
    let magnitude = Float(bitPattern: (bits & 0x7fff) << 13) * Float(bitPattern: 0x7780_0000)
    let finite = (bits & 0x7c00) == 0x7c00 ? ((bits & 0x3ff) == 0 ? Float.infinity : Float.nan) : magnitude
    return (bits & 0x8000) == 0 ? finite : -finite
  default: return Float(memory.load(fromByteOffset: i, as: UInt8.self))
  }
}

/// The largest difference of a case, in units of its tolerance: up to 1 is well.
func run(_ c: KernelCase, expected: Data, kernels: Kernels, queue: MTLCommandQueue) throws -> Float {
  let pipeline = try kernels.pipeline(c.entry, threads: c.threads)
  let buffers = try c.buffers.map { buffer -> MTLBuffer in
    let memory = try kernels.device.zeroed(buffer.elements * size(buffer.dtype))
    fill(memory.contents(), buffer)
    return memory
  }
  guard let commands = queue.makeCommandBuffer(), let encoder = commands.makeComputeCommandEncoder() else {
    throw Failure("the queue gives no command buffer")
  }
  encoder.setComputePipelineState(pipeline)
  for (i, buffer) in buffers.enumerated() { encoder.setBuffer(buffer, offset: 0, index: i) }
  if !c.symbols.isEmpty { encoder.setBytes(c.symbols, length: 4 * c.symbols.count, index: buffers.count) }
  encoder.dispatchThreadgroups(
    MTLSize(width: c.grid[0], height: c.grid[1], depth: c.grid[2]), threadsPerThreadgroup: MTLSize(width: c.threads, height: 1, depth: 1))
  encoder.endEncoding()
  commands.commit()
  commands.waitUntilCompleted()
  if let error = commands.error { throw Failure("\(error)") }

  var worst: Float = 0
  for e in c.expected {
    expected.withUnsafeBytes { (bytes: UnsafeRawBufferPointer) in
      for i in 0..<e.count {
        let at = Int(bytes.load(fromByteOffset: e.offset + 4 * i, as: Int32.self))
        let wanted = bytes.load(fromByteOffset: e.offset + 4 * (e.count + i), as: Float.self)
        let got = value(buffers[e.buffer].contents(), c.buffers[e.buffer].dtype, at)
        if got == wanted || (got.isNaN && wanted.isNaN) { continue }
        let allowed = e.tolerance * (1 + abs(wanted))
        let difference = abs(got - wanted) / allowed
        worst = difference.isNaN ? .infinity : max(worst, difference)
      }
    }
  }
  return worst
}

/// Prints a table of all kernels. Returns whether all that were run gave what they must.
func verify(_ folder: URL, device: MTLDevice) throws -> Bool {
  let cases = try readJson(Cases.self, folder.appendingPathComponent("verify/cases.json")).cases
  let expected = try Data(contentsOf: folder.appendingPathComponent("verify/expected.bin"))
  let kernels = try Kernels(device: device, library: folder.appendingPathComponent("build/kernels.metallib"))
  guard let queue = device.makeCommandQueue() else { throw Failure("\(device.name) gives no command queue") }
  print("\(cases.count) kernels on \(device.name)")
  var good = true
  for c in cases {
    var outcome: String
    if let reason = c.skipped {
      outcome = "not run: \(reason)"
    } else {
      do {
        let worst = try run(c, expected: expected, kernels: kernels, queue: queue)
        outcome = worst <= 1 ? "ok, \(worst) of the tolerance" : "WRONG, \(worst) times the tolerance"
        if worst > 1 { good = false }
      } catch {
        outcome = "FAILED: \(error)"
        good = false
      }
    }
    print("\(c.entry)  \(c.label)  \(outcome)")
  }
  print(good ? "all kernels that were run give what they must" : "there are kernels that do not give what they must")
  return good
}
