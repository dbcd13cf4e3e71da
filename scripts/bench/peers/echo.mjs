// A bare WebSocket server that sends back what it gets. Prints its port.
import { WebSocketServer } from "ws"

const server = new WebSocketServer({ port: 0, host: "127.0.0.1" }, () => console.log(server.address().port))
server.on("connection", (socket) => socket.on("message", (data) => socket.send(String(data))))
