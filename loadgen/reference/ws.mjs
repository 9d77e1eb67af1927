// The reference: rooms on npm `ws`. Keeps nothing, promises nothing, one process.
// {"join":"room"} joins and is answered {"joined":"room"}; every other text goes to the whole room as it is.
import { createServer } from "node:http";
import { WebSocketServer } from "ws";

const rooms = new Map();
const server = createServer();
new WebSocketServer({ server, perMessageDeflate: false }).on("connection", (socket) => {
  socket.on("error", () => socket.terminate());
  socket.on("close", () => socket.members?.delete(socket));
  socket.on("message", (data) => {
    const text = data.toString();
    if (text.startsWith('{"join":')) {
      const { join } = JSON.parse(text);
      if (!rooms.has(join)) rooms.set(join, new Set());
      socket.members = rooms.get(join).add(socket);
      socket.send(JSON.stringify({ joined: join }));
    } else for (const member of socket.members ?? []) member.send(text);
  });
});
server.listen({ port: 0, host: "127.0.0.1", backlog: 4096 }, () =>
  console.log(`ws reference is listening on http://127.0.0.1:${server.address().port}`));
