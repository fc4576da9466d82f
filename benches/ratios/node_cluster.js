// Node's cluster as its documentation has it: the peer of the bench `ratios`.
//
// WORKERS (2), POLICY (`rr` or `none`), NOTIFY (not empty: each request sends the primary `notifyRequest`), HTTP2 (not empty). Listens on a free
// port of 127.0.0.1, says `listening on ADDRESS` when all workers do, and `fork to listening N us` for each of them.

'use strict';

const cluster = require('node:cluster');
const http = require('node:http');
const http2 = require('node:http2');

const workers = Number(process.env.WORKERS || 2);
const notify = Boolean(process.env.NOTIFY);
const body = 'hello world';
const large = Buffer.alloc(64 * 1024, 'x');
const orders = () => Array.from({ length: 15 }, (_, id) => (
  { id: 1000 + id, customer: 'somebody somewhere', paid: id % 3 === 0, total: id + 0.25 }));

if (cluster.isPrimary) {
  cluster.schedulingPolicy = process.env.POLICY === 'none' ? cluster.SCHED_NONE : cluster.SCHED_RR;
  let listening = 0;
  let port = 0;
  let numReqs = 0;
  const fork = () => {
    const forked = process.hrtime.bigint();
    const worker = cluster.fork({ PORT: String(port) });
    worker.on('message', (message) => {
      if (message.cmd === 'notifyRequest') numReqs += 1;
    });
    worker.once('listening', (address) => {
      console.log(`fork to listening ${(process.hrtime.bigint() - forked) / 1000n} us`);
      port = address.port; // the port of the first is the port of those that replace it
      listening += 1;
      if (listening === workers) console.log(`listening on 127.0.0.1:${port}`);
    });
  };
  cluster.on('exit', fork);
  for (let n = 0; n < workers; n += 1) fork();
} else {
  const answer = (response, type, content) => {
    response.writeHead(200, { 'Content-Type': type, 'Content-Length': Buffer.byteLength(content) });
    response.end(content);
  };
  const listener = (request, response) => {
    switch (request.url) {
      case '/json':
        return answer(response, 'application/json', JSON.stringify(orders()));
      case '/body':
        return answer(response, 'application/octet-stream', large);
      case '/echo': {
        const chunks = [];
        request.on('data', (chunk) => chunks.push(chunk));
        return request.on('end', () => answer(response, 'application/octet-stream', Buffer.concat(chunks)));
      }
      default:
        answer(response, 'text/plain; charset=utf-8', body);
        if (notify) process.send({ cmd: 'notifyRequest' });
    }
  };
  const server = process.env.HTTP2 ? http2.createServer(listener) : http.createServer(listener);
  server.keepAliveTimeout = 75_000; // not 5 s: connections wait while other servers are measured
  server.listen(Number(process.env.PORT), '127.0.0.1');
}
