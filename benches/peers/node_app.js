// `hello world` in one process: a worker of `node_cluster.js`, or of pm2, which it tells that it is ready.
'use strict';

const http = require('node:http');

const body = 'hello world';
const server = http.createServer((request, response) => {
  response.writeHead(200, { 'Content-Type': 'text/plain', 'Content-Length': body.length });
  response.end(body);
});
server.keepAliveTimeout = 75_000;
server.listen(Number(process.env.PORT), '127.0.0.1', () => {
  if (process.env.PM2_HOME && process.send) process.send('ready');
});
// As pm2's documentation has it.
process.on('SIGINT', () => server.close(() => process.exit(0)));
