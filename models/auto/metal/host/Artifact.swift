// What a compiled model's folder says: manifest.json, as far as a host needs it.

import Foundation

struct Failure: Error, CustomStringConvertible {
  let description: String
  init(_ description: String) { self.description = description }
}

/// A number, a run-time symbol, or [operator, a, b].
indirect enum IntExpr: Decodable {
  case number(Int)
  case symbol(String)
  case call(String, IntExpr, IntExpr)

  init(from decoder: Decoder) throws {
    if let single = try? decoder.singleValueContainer() {
      if let number = try? single.decode(Int.self) {
        self = .number(number)
        return
      }
      if let name = try? single.decode(String.self) {
        self = .symbol(name)
        return
      }
    }
    var list = try decoder.unkeyedContainer()
    let name = try list.decode(String.self)
    let a = try list.decode(IntExpr.self)
    let b = try list.decode(IntExpr.self)
    self = .call(name, a, b)
  }

  func value(_ symbols: [String: Int]) throws -> Int {
    switch self {
    case .number(let number): return number
    case .symbol(let name):
      guard let value = symbols[name] else { throw Failure("symbol \(name) has no value") }
      return value
    case .call(let name, let left, let right):
      let a = try left.value(symbols)
      let b = try right.value(symbols)
      switch name {
      case "add": return a + b
      case "sub": return a - b
      case "mul": return a * b
      case "idiv": return Int((Double(a) / Double(b)).rounded(.down))
      case "mod": return a - b * Int((Double(a) / Double(b)).rounded(.down))
      case "min": return min(a, b)
      case "max": return max(a, b)
      default: throw Failure("there is no operator \(name)")
      }
    }
  }
}

struct Tensor: Decodable {
  let name: String
  let dtype: String
  let bytes: Int
}

struct Weight: Decodable {
  struct Part: Decodable { let tensor: String }
  let name: String
  let dtype: String
  /// Tensors of the checkpoint, one behind the other.
  let parts: [Part]
  let bytes: Int
}

struct Literal: Decodable {
  let name: String
  /// Of literals.bin.
  let offset: Int
  let bytes: Int
}

/// Where an argument of a step is.
struct BufferRef: Decodable {
  /// weight, literal, state, input, output, or arena.
  let kind: String
  let name: String?
  let arena: Int?
  let offset: Int?
}

struct Step: Decodable {
  let kernel: Int
  let grid: [IntExpr]
  let args: [BufferRef]
  let label: String
}

struct Program: Decodable {
  let name: String
  let inputs: [Tensor]
  let outputs: [Tensor]
  let arenas: [Int]
  let steps: [Step]
}

struct KernelEntry: Decodable {
  let entry: String
  /// The order in which the kernel expects values of symbols.
  let symbols: [String]
  let threads: Int
}

struct Manifest: Decodable {
  struct Target: Decodable {
    let backend: String
    let caps: String
  }
  let name: String
  let target: Target
  let weights: [Weight]
  let literals: [Literal]
  let states: [Tensor]
  let programs: [Program]
  let kernels: [KernelEntry]
}

func readJson<T: Decodable>(_ type: T.Type, _ url: URL) throws -> T {
  do {
    return try JSONDecoder().decode(type, from: Data(contentsOf: url))
  } catch {
    throw Failure("\(url.path): \(error)")
  }
}
