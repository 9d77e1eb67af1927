// The reference for coming back: Socket.IO with connection state recovery in memory.
import { createServer } from "node:http";
import { Server } from "socket.io";

const server = createServer();
const io = new Server(server, {
  connectionStateRecovery: { maxDisconnectionDuration: 120_000 },
  perMessageDeflate: false,
  serveClient: false,
});
io.on("connection", (socket) => {
  socket.on("join", (room, joined) => {
    socket.join(room);
    joined();
  });
  socket.on("send", (room, text) => io.to(room).emit("m", text));
});
server.listen({ port: 0, host: "127.0.0.1", backlog: 4096 }, () =>
  console.log(`Socket.IO reference is listening on http://127.0.0.1:${server.address().port}`));
