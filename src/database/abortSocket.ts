import type { Socket } from "node:net"

/**
 * Ends a socket at once, and throws away what it has not sent yet. A socket that is only closed is still the system's: where
 * packets vanish, it goes on sending for minutes, and when they arrive again the server does what nobody waits for any more,
 * as an acquire whose jobs nobody here knows of.
 */
export const abortSocket = (socket: Socket, error: Error): void => {
  if (socket.destroyed) return
  // Before it is connected nothing can have been sent; and a Unix socket loses nothing on its way.
  if (socket.connecting || socket.remoteFamily === undefined) return void socket.destroy(error)
  // A reset has no error of its own for those who work with the socket.
  socket.emit("error", error)
  socket.resetAndDestroy()
}
