// The upstream of the outside suites: a page, a large body, and a websocket that echoes.   node upstream.js PORT
const http = require('http');
const { WebSocketServer } = require('ws');

const server = http.createServer((request, response) => {
  if (request.url.startsWith('/large')) {
    response.setHeader('content-type', 'application/octet-stream');
    return response.end(Buffer.alloc(2_000_000, 97));
  }
  request.resume();
  request.on('end', () => response.end('ok\n'));
});
const sockets = new WebSocketServer({ server, perMessageDeflate: true, maxPayload: 64 << 20 });
sockets.on('connection', (socket) => {
  socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary }));
  // The suite breaks the protocol on purpose.
  socket.on('error', () => {});
});
server.listen(Number(process.argv[2]), '127.0.0.1');
