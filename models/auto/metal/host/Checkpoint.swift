// Tensors of a checkpoint: the safetensors files of a folder, mapped into memory.

import Foundation

final class Checkpoint {
  struct Entry: Decodable {
    let dtype: String
    let data_offsets: [Int]
  }
  private var tensors: [String: (file: Data, dtype: String, range: Range<Int>)] = [:]

  init(folder: URL) throws {
    let files = try FileManager.default.contentsOfDirectory(at: folder, includingPropertiesForKeys: nil)
    for url in files where url.pathExtension == "safetensors" {
      let file = try Data(contentsOf: url, options: .alwaysMapped)
      let length = file.prefix(8).enumerated().reduce(0) { $0 | Int($1.element) << (8 * $1.offset) }
      let header = try JSONSerialization.jsonObject(with: file.subdata(in: 8..<(8 + length)))
      guard let entries = header as? [String: Any] else { throw Failure("\(url.path): its header is no object") }
      for (name, value) in entries where name != "__metadata__" {
        let entry = try JSONDecoder().decode(Entry.self, from: JSONSerialization.data(withJSONObject: value))
        let start = 8 + length + entry.data_offsets[0]
        tensors[name] = (file, entry.dtype, start..<(8 + length + entry.data_offsets[1]))
      }
    }
    if tensors.isEmpty { throw Failure("\(folder.path): there is no safetensors file") }
  }

  /// A tensor's bytes. The type in memory has to be the one in the file: compile with `--dtype auto`.
  func bytes(_ name: String, as dtype: String) throws -> Data {
    guard let found = tensors[name] else { throw Failure("the checkpoint has no tensor \(name)") }
    let types = ["f32": "F32", "bf16": "BF16", "f16": "F16"]
    guard types[dtype] == found.dtype else { throw Failure("\(name) is \(found.dtype) in the checkpoint, the model was compiled for \(dtype)") }
    return found.file.subdata(in: found.range)
  }
}
