// culm-metal verify FOLDER
// culm-metal generate FOLDER CHECKPOINT TOKENS COUNT    TOKENS: the prompt as numbers, with commas between them

import Foundation
import Metal

func start(_ arguments: [String]) throws -> Bool {
  guard let device = MTLCreateSystemDefaultDevice() else { throw Failure("this machine has no GPU that Metal knows") }
  if arguments.count == 2, arguments[0] == "verify" {
    return try verify(URL(fileURLWithPath: arguments[1]), device: device)
  }
  if arguments.count == 5, arguments[0] == "generate", let count = Int(arguments[4]) {
    let checkpoint = try Checkpoint(folder: URL(fileURLWithPath: arguments[2]))
    let model = try Model(folder: URL(fileURLWithPath: arguments[1]), checkpoint: checkpoint, device: device, fixed: ["batch": 1, "kept": 1])
    let prompt = arguments[3].split(separator: ",").compactMap { Int32($0) }
    try model.generate(prompt: prompt, count: count) { print($0) }
    return true
  }
  throw Failure("usage: culm-metal verify FOLDER, or culm-metal generate FOLDER CHECKPOINT TOKENS COUNT")
}

do {
  let good = try start(Array(CommandLine.arguments.dropFirst()))
  exit(good ? 0 : 1)
} catch {
  FileHandle.standardError.write("culm-metal: \(error)\n".data(using: .utf8)!)
  exit(2)
}
