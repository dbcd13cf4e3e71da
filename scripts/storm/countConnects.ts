// Preloaded into the measured process (`node --import`): notes the time of each TCP connection it attempts to the
// database's port, whichever client makes it.
import { openSync, writeSync } from "node:fs"
import { Socket } from "node:net"

const file = openSync(process.env["STORM_CONNECTS"] ?? "/dev/null", "a")
const port = process.env["STORM_PORT"]
// oxlint-disable-next-line typescript/unbound-method -- called with its own `this` below
const connect = Socket.prototype.connect
Socket.prototype.connect = function(this: Socket, ...parameters: Array<unknown>) {
  // `net.connect` hands its options on as the first element of an array.
  const [first] = parameters.flat()
  const target = typeof first === "object" && first !== null && "port" in first ? first.port : first
  if (String(target) === port) writeSync(file, `${Date.now()}\n`)
  return Reflect.apply(connect, this, parameters)
} as typeof connect
